"""What a hospital needs to run the server: a gateway, the hook of a PACS, and how many hosts."""

from terminal.program import begin

begin()
