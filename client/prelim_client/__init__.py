"""A client for HTTP and gRPC, for tests, load tests and the command line; it needs neither torch nor the server."""
