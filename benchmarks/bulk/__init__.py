"""Throughput and memory of bulk jobs."""
