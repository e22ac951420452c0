"""From studies to batches."""
