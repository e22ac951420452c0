"""Installs the server on other machines: as a container image, or from a bundle where there is no network."""

from terminal.program import begin

begin()
