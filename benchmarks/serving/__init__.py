"""Throughput and latency through TorchServe."""
