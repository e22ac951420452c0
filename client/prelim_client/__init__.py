"""A client for HTTP and gRPC, for tests, load tests and the command line; it needs neither torch nor the server."""

__version__ = "0.3.0.dev0"
