"""What the bridge keeps on disk: the queue, its schema, and images that arrived by C-STORE."""
