"""The network of a checkpoint with random weights, imported as for a model folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.models.shapes import WEIGHTS, Shape
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.architectures.facts import Facts
from prelim.networks.trained_decoder import build_decoder


def import_checkpoint(folder: Path, shape: Shape) -> Any:
    """Import the network of a checkpoint as for a model folder, in float32."""
    with torch.device("meta"):
        network = build_decoder(shape.section)
    weights = load_file(folder / WEIGHTS)
    if shape.is_prefix:
        weights = {_import_weights(name): tensor for name, tensor in weights.items()}
    elif shape.of_library:
        weights = _import_with_cross_attention(weights, shape)
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)


def _import_with_cross_attention(weights: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """Map the keys of a BERT or GPT-2 to those of a model folder, as in a VisionEncoderDecoderModel."""
    published = ARCHITECTURES["encoder_decoder"].published
    renamed = {published.our_key(f"decoder.{name}"): tensor for name, tensor in weights.items()}
    laid_out: Any = published.layout
    found = laid_out(renamed, Facts(config={"decoder": shape.section}))
    return {name.removeprefix("decoder."): tensor for name, tensor in found.items()}


def _import_weights(name: str) -> str:
    """Map a key of `transformers` to that of a model folder, where the body has the same name in all models."""
    body, _, rest = name.partition(".")
    return name if body == "lm_head" else f"body.{rest}"
