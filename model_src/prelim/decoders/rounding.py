"""Rounding of weights by what a layer reads: the error of one weight is made up for by those that are rounded later.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2023,
algorithm 1, with units that are given.
"""

from collections.abc import Callable

import torch
from torch import Tensor

DAMPING = 0.01
"""Share of the mean moment that is added to each input's own: inputs that were never seen keep their weights."""

_BLOCK = 64
_LEVELS = 127


def nearest_byte(x: Tensor) -> Tensor:
    """The nearest integers of -127 to 127."""
    return x.round().clamp(-_LEVELS, _LEVELS)


def spreading_factor(moments: Tensor) -> Tensor:
    """How the error of each weight is spread over those that follow, for `round_by_moments`; an upper triangle.

    moments : Tensor, shape (inputs, inputs), the sum of x x' over all x that the layer read
    """
    damped = moments.double()
    damped = damped + torch.eye(len(moments), dtype=torch.float64) * (DAMPING * damped.diagonal().mean() + 1e-12)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float()


def round_by_moments(
    weight: Tensor, units: Tensor, factor: Tensor, nearest: Callable[[Tensor], Tensor] = nearest_byte
) -> Tensor:
    """Integers for which the layer's outputs change least; each row by itself.

    weight  : Tensor of float32, shape (outputs, inputs)
    units   : Tensor of float32, shape (outputs, inputs), what 1 is worth
    factor  : Tensor of float32, shape (inputs, inputs), as `spreading_factor` gives it
    nearest : of any numbers the nearest that there are, integers of -128 to 127
    returns : Tensor of int8, shape (outputs, inputs)
    """
    inputs = weight.shape[1]
    left = weight.clone()
    integers = torch.empty(weight.shape, dtype=torch.int8)
    for start in range(0, inputs, _BLOCK):
        stop = min(start + _BLOCK, inputs)
        block, errors = left[:, start:stop], torch.empty(len(weight), stop - start)
        for i in range(stop - start):
            unit, row = units[:, start + i], factor[start + i, start:stop]
            rounded = nearest(block[:, i] / unit)
            integers[:, start + i] = rounded.to(torch.int8)
            errors[:, i] = (block[:, i] - rounded * unit) / row[i]
            block[:, i + 1 :] -= errors[:, i : i + 1] * row[None, i + 1 :]
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return integers
