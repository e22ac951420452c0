"""Starts, checks, drains and stops TorchServe on this machine."""

from prelim.program import begin

begin()
