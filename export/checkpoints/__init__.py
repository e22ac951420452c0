"""Published checkpoints: locating and reading their files."""
