"""Imports published checkpoints, and exports model folders as archives for the server."""

from terminal.program import begin

begin()
