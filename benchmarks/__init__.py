"""Speed and memory of the server, measured through the commands that users run."""

from prelim.program import begin

begin()
