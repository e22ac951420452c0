"""Low-rank adapters that are kept beside the layers that they adapt.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022: W x + B A x; the factor alpha / r is
part of B here. Kept, an adapter stays in 16 bits over a layer of 4, as QLoRA trains it (Dettmers et al., 2023); merged,
it would be rounded with it.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class LoRALinear(nn.Linear):
    """A linear layer with its adapter, under the names of `peft` (lora_A, lora_B)."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None)
        self.lora_A = nn.Linear(layer.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, layer.out_features, bias=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch.nn.Linear names it so)
        """The adapted layer, shape (..., outputs)."""
        adapted: Tensor = self.lora_B(self.lora_A(input))
        return super().forward(input) + adapted


def adapt(body: nn.Module, rank: int, layers: Sequence[str]) -> None:
    """Give every linear layer of one of these names an adapter.

    Raises ValueError for a name that no linear layer has.
    """
    found = set()
    for parent in list(body.modules()):
        for name, layer in list(parent.named_children()):
            if name in layers and isinstance(layer, nn.Linear):
                setattr(parent, name, LoRALinear(layer, rank))
                found.add(name)
    if missing := sorted(set(layers) - found):
        raise ValueError(f"adapter: layers has {missing[0]!r}, which is no linear layer of this decoder")


def joined_adapter(weights: Mapping[str, Tensor], layers: Sequence[str]) -> tuple[Tensor, Tensor] | None:
    """One adapter for layers over the same input whose outputs stand side by side; None where none has one.

    layers  : names in `weights`, without `.weight`
    returns : Tensor, shape (ranks, inputs), and Tensor, shape (outputs, ranks), the ranks being those of all adapters
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
