"""Check of decoding on a GPU, on a machine that has PyTorch and transformers and nothing else of ours."""
