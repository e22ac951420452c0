"""Data sets that can be trained on, one file each."""
