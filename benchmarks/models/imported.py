"""The network of a checkpoint with random weights, imported as for a model folder."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.models.shapes import WEIGHTS, Shape
from prelim.networks.trained_decoder import build_decoder


def import_checkpoint(folder: Path, shape: Shape) -> Any:
    """Import the network of a checkpoint as for a model folder, in float32."""
    with torch.device("meta"):
        network = build_decoder(shape.section)
    weights = load_file(folder / WEIGHTS)
    if shape.is_prefix:
        weights = {_import_weights(name): tensor for name, tensor in weights.items()}
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)


def _import_weights(name: str) -> str:
    """Map a key of `transformers` to that of a model folder, where the body has the same name in all models."""
    body, _, rest = name.partition(".")
    return name if body == "lm_head" else f"body.{rest}"
