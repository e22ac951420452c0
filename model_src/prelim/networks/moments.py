"""What the layers of a decoder read while it writes, for rounding their weights by it."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from prelim.networks.agreement import Prefix
from prelim.networks.trained_decoder import Trainable, for_serving, materialized

MOST_BYTES = 8 * 2**30
"""Of moments in memory; decoders that need more are rounded without."""


@torch.inference_mode()
def input_moments(decoder: nn.Module, prefixes: Sequence[Prefix], texts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Layer of the served decoder -> the sum of x x' over all that it reads along texts, shape (inputs, inputs).

    decoder : as in a model folder
    texts   : token ids after each prefix, as fp32 writes them

    Empty if moments of all layers would take more than MOST_BYTES.
    """
    _, served, weights = for_serving(cast("Trainable", decoder), "fp32")
    linear = {name: layer for name, layer in served.named_modules() if isinstance(layer, nn.Linear)}
    if sum(4 * layer.in_features**2 for layer in linear.values()) > MOST_BYTES:
        return {}
    served.load_state_dict(materialized(weights), assign=True)
    moments: dict[str, Tensor] = {}
    for name, layer in linear.items():
        layer.register_forward_pre_hook(partial(_add, moments, name))
    reading: Any = served.eval()
    for prefix, text in zip(prefixes, texts, strict=True):
        prompt = torch.tensor([prefix.prompt_ids])
        reading.teacher_forcing(prefix.image_embeds[None], prompt, torch.tensor([list(text)]))
    return moments


def _add(moments: dict[str, Tensor], name: str, layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    rows = arguments[0].reshape(-1, arguments[0].shape[-1]).float()
    found = rows.T @ rows
    moments[name] = moments[name] + found if name in moments else found
