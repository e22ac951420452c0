"""Benchmark of draft tokens from known reports."""
