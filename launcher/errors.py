"""What stops a launch."""


class LaunchError(Exception):
    """The server cannot be started, or does not serve. The message says why and what to do."""
