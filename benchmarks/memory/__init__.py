"""Benchmark of the memory of a served model."""
