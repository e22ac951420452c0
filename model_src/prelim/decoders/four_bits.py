"""Linear layers and token embeddings with four bits a weight, two weights a byte: those of `int8_dynamic` otherwise.

What the sixteen numbers stand for is that of normal numbers, which the weights of a rotated group nearly are: close
together where there are many. The unit of a group may be negative, so that the end of the numbers which reaches further
is on the side of the largest weight.
"""

from functools import cache

import torch
from torch import Tensor, nn

from prelim.decoders.quantized import Int8DynamicEmbedding, Int8DynamicLinear, turned, turned_moments, whole
from prelim.decoders.rounding import round_by_moments, spreading_factor
from prelim.decoders.row_blocks import by_rows
from prelim.decoders.weights_file import LazyTensor, Weights
from prelim.kernels import FOUR_BITS, GROUP

_SHRUNK = (0.8, 0.85, 0.9, 0.95, 1.0, 1.05)
"""Units that are tried: these times the one by which the largest weight of a group is met exactly."""

_ROWS = 512
"""For which units are searched at once: what is computed for them fits into the caches, or nearly so."""


def _nearest(x: Tensor) -> Tensor:
    """The place of the nearest of the sixteen numbers, for x in units of its group; of int64, shape of x."""
    numbers = torch.tensor(FOUR_BITS, dtype=torch.float32)
    return torch.bucketize(x, (numbers[1:] + numbers[:-1]) / 2)


def _numbers(places: Tensor) -> Tensor:
    return torch.tensor(FOUR_BITS, dtype=torch.int8)[places.long()]


def _units(weight: Tensor, moments: Tensor | None) -> Tensor:
    """What one unit of each group is worth: that with the smallest squared error of those tried, 0 where all are zero.

    weight  : Tensor of float32, shape (outputs, inputs)
    moments : errors count by the squares of what they are multiplied with, if these are known
    returns : Tensor of bfloat16, shape (outputs, inputs / GROUP)
    """
    counts = torch.ones(weight.shape[1]) if moments is None else moments.diagonal() + 1e-6 * moments.diagonal().mean()
    return torch.cat([_units_of_rows(weight[i : i + _ROWS], counts) for i in range(0, len(weight), _ROWS)])


def _units_of_rows(weight: Tensor, counts: Tensor) -> Tensor:
    groups, counts = weight.reshape(len(weight), -1, GROUP), counts.view(-1, GROUP)
    peak = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True))
    best = torch.zeros_like(peak, dtype=torch.bfloat16)
    least = (counts * groups.square()).sum(dim=2, keepdim=True)
    for end in (FOUR_BITS[0], FOUR_BITS[-1]):
        for shrunk in _SHRUNK:
            tried = (peak / end * shrunk).bfloat16()
            unit = tried.float()
            rounded = _numbers(_nearest(groups / unit.where(unit != 0, 1))) * unit
            error = (counts * (groups - rounded).square()).sum(dim=2, keepdim=True)
            better = error < least
            best, least = tried.where(better, best), error.where(better, least)
    return best[..., 0]


def _packed(weight: Tensor, scale: Tensor, factor: Tensor | None) -> Tensor:
    """Two weights a byte, the first in its high half, shape (outputs, inputs / 2); `scale` as `_units` gives it."""
    units = scale.where(scale != 0, 1).float().repeat_interleave(GROUP, dim=1)
    if factor is None:
        places = _nearest(weight / units)
    else:
        integers = round_by_moments(weight, units, factor, lambda x: _numbers(_nearest(x)).float())
        places = _nearest(integers.float())
    places = places.to(torch.uint8)
    return places[:, ::2] << 4 | places[:, 1::2]


def _turned_int4(weight: Tensor | LazyTensor, moments: Tensor | None = None) -> Weights:
    """A matrix by which rotated inputs are multiplied, with a unit for every GROUP of them.

    moments : of what is multiplied with it; without, numbers are the nearest
    """
    outputs, inputs = weight.shape[0], whole(weight.shape[1])
    moments = None if moments is None else turned_moments(moments)
    factor = cache(lambda: None if moments is None else spreading_factor(moments))

    def convert(rows: Tensor) -> tuple[Tensor, Tensor]:
        numbers = turned(rows)
        scale = _units(numbers, moments)
        return _packed(numbers, scale, factor()), scale

    made = {"weight": ((outputs, inputs // 2), torch.uint8), "scale": ((outputs, inputs // GROUP), torch.bfloat16)}
    return by_rows(weight, convert, made)


def _unpacked(weight: Tensor) -> Tensor:
    """The integers of 8 bits that packed weights stand for, shape (..., inputs)."""
    return _numbers(torch.stack([weight >> 4, weight & 15], dim=-1).flatten(-2))


class Int4DynamicLinear(Int8DynamicLinear):
    """A linear layer with weights of four bits, which multiplies integers of eight once it is packed.

    weight : Tensor of uint8, two weights each, shape (outputs, inputs / 2), of whole groups, each rotated
    scale  : Tensor of bfloat16, shape (outputs, inputs / GROUP)
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.weight = nn.Parameter(torch.zeros(outputs, whole(inputs) // 2, dtype=torch.uint8), requires_grad=False)

    stored = staticmethod(_turned_int4)
    integers = staticmethod(_unpacked)


class Int4DynamicEmbedding(Int8DynamicEmbedding):
    """Token embeddings of four bits, by which tokens are scored as `Int4DynamicLinear` does it."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__(vocab_size, width)
        self.weight = nn.Parameter(torch.zeros(vocab_size, whole(width) // 2, dtype=torch.uint8), requires_grad=False)

    stored = staticmethod(_turned_int4)
    integers = staticmethod(_unpacked)
