"""Linear layers that can do more than torch.nn.Linear."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Linear(nn.Linear):
    """torch.nn.Linear, for layers that join several projections of which one is wanted by itself."""

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Outputs `start` to `stop` of a layer that has them side by side, shape (..., stop - start)."""
        return linear(x, self.weight[start:stop], None if self.bias is None else self.bias[start:stop])


class AdaptedLinear(nn.Module):
    """A linear layer plus a low-rank adapter, so that the layer can be stored in fewer bits than the adapter.

    Source: Hu et al., "LoRA", ICLR 2022; Dettmers et al., "QLoRA", 2023.

    base : the layer
    rank : of the adapter, whose scaling is part of `up`
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.zeros(rank, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """The adapted layer, shape (..., outputs), for x of shape (..., inputs)."""
        return self.base(x) + linear(linear(x, self.down), self.up)
