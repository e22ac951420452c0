"""A client that knows only HTTP and gRPC, for tests, load tests and the command line."""
