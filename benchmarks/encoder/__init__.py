"""Time of encoding an image."""
