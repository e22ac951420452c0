"""Speed and memory of the server, measured through the commands that users run."""

from terminal.program import begin

begin()
