"""Between the network and the library: what HTTP and gRPC requests mean, and how TorchServe is answered."""
