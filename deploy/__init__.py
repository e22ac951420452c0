"""What a hospital needs to run the server: images and bundles, a gateway, charts, and how many hosts."""

from terminal.program import begin

begin()
