"""nginx in front of TorchServe: the only address that a network may see."""
