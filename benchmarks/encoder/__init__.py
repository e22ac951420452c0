"""Benchmark of the time of encoding an image."""
