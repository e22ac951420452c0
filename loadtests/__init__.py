"""Load on a running server, over HTTP and gRPC, by clients that know nothing of the library."""
