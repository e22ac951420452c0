"""Decoding: options, token selection, and the engine that runs an in-flight batch."""
