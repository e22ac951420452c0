"""Formats of texts that others have written."""
