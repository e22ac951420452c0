"""What the serving benchmark compares Prelim with: a handler as somebody would write it in a day, and its archive."""
