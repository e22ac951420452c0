"""Low-rank adapters that are not merged into their layers.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022: W x + B A x; the factor alpha / r is
part of B here. A separate adapter keeps 16 bits over a 4-bit layer, as in QLoRA training (Dettmers et al., 2023); a
merged one would be quantized with the layer.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class LoRALinear(nn.Linear):
    """A linear layer with its adapter, with the parameter names of `peft` (lora_A, lora_B)."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None)
        self.lora_A = nn.Linear(layer.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, layer.out_features, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch.nn.Linear names it so)
        """Apply the adapted layer; returns shape (..., outputs)."""
        adapted: Tensor = self.lora_B(self.lora_A(input))
        return super().forward(input) + adapted


def adapt(body: nn.Module, rank: int, layers: Sequence[str]) -> None:
    """Add an adapter to every linear layer with one of these names.

    Raises ValueError for a name without a linear layer.
    """
    found = set()
    for parent in list(body.modules()):
        for name, layer in list(parent.named_children()):
            if name in layers and isinstance(layer, nn.Linear):
                setattr(parent, name, LoRALinear(layer, rank))
                found.add(name)
    if missing := sorted(set(layers) - found):
        raise ValueError(f"adapter.layers contains {missing[0]!r}, which is not a linear layer of this decoder")


def join_adapters(weights: Mapping[str, Tensor], layers: Sequence[str]) -> tuple[Tensor, Tensor] | None:
    """Join the adapters of layers with the same input and concatenated outputs; None if there are no adapters.

    layers  : names in `weights`, without `.weight`
    returns : Tensor, shape (ranks, inputs), and Tensor, shape (outputs, ranks); ranks is the sum over the adapters
    """
    downs = [weights[key] for layer in layers if (key := f"{layer}.lora_A.weight") in weights]
    if not downs:
        return None
    rows, rank = [], 0
    total = sum(len(down) for down in downs)
    for layer in layers:
        up = weights.get(f"{layer}.lora_B.weight")
        row = downs[0].new_zeros(len(weights[f"{layer}.weight"]), total)
        if up is not None:
            row[:, rank : rank + up.shape[1]] = up
            rank += up.shape[1]
        rows.append(row)
    return torch.cat(downs), torch.cat(rows)
