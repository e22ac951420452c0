"""Imports published checkpoints, and exports model folders as archives for the server."""

from prelim.program import begin

begin()
