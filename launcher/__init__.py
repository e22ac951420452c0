"""Starts, checks, drains and stops TorchServe on this machine."""

from terminal.program import begin

begin()
