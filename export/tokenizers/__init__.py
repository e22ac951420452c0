"""Converts published tokenizers to the `tokenizers` library."""
