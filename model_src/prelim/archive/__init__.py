"""The files of an archive, written and read."""
