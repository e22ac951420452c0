"""Time of a decoding step, next to other engines."""
