"""Starts, checks, drains and stops TorchServe on this machine."""
