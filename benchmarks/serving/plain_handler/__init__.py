"""The serving benchmark's baseline: a simple handler, written in a day, and its archive."""
