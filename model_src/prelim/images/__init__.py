"""Image files: bytes -> pixel_values."""
