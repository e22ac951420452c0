"""Commands besides running the bridge: look after the queue, copy files without identities."""
