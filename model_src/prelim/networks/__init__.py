"""Networks as they are published and trained; none of this enters an archive."""
