"""Time of a decoding step, compared with other engines."""
