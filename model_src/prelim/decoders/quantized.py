"""Linear layers and token embeddings with fewer than 16 bits a weight.

Each class says with `stored` how the weights of the layer that it stands for are stored, and computes with those.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from prelim.decoders.rounding import round_by_moments, spreading_factor
from prelim.decoders.row_blocks import by_rows
from prelim.decoders.weights_file import LazyTensor, Weights
from prelim.kernels import GROUP, NF4_BLOCK, rotated

ProductFunction = Callable[[Tensor], Tensor]
"""Rows of shape (..., inputs) -> (..., outputs)."""


def whole(inputs: int) -> int:
    """Inputs of whole groups."""
    return -(-inputs // GROUP) * GROUP


def _filled(weight: Tensor) -> Tensor:
    """In float32, with zeros up to whole groups."""
    return pad(weight.float(), (0, whole(weight.shape[1]) - weight.shape[1]))


def turned(weight: Tensor) -> Tensor:
    """As rotated inputs are multiplied with it, whole groups."""
    return rotated(_filled(weight))


def _int8_scale(weight: Tensor) -> Tensor:
    """What one unit of each group's integers is worth: bfloat16, so that no kernel has to round it further."""
    peak = _filled(weight).view(len(weight), -1, GROUP).abs().amax(dim=2)
    scale = (peak / 127).to(torch.bfloat16)
    # Rounded down, the largest weight would no longer fit.
    too_small = scale.float() * 127 < peak
    scale = torch.where(too_small, (scale.float() * (1 + 2**-7)).to(torch.bfloat16), scale)
    return scale.where(scale > 0, 1)


def _int8_rows(weight: Tensor, factor: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Integers of rows of float32, and what a unit of each group is worth.

    factor : by which errors are spread; without, integers are the nearest
    """
    scale = _int8_scale(weight)
    units = scale.float().repeat_interleave(GROUP, dim=1)[:, : weight.shape[1]]
    if factor is not None:
        return round_by_moments(weight, units, factor), scale
    return (weight / units).round_().clamp_(-127, 127).to(torch.int8), scale


def _same(weight: Tensor) -> Tensor:
    """The integers of weights that are integers."""
    return weight


def _restored(weight: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers that integers stand for. In bfloat16 each is rounded once, as integers and scales fit into it."""
    width = weight.shape[-1]
    groups = pad(weight, (0, whole(width) - width)).reshape(*weight.shape[:-1], -1, GROUP)
    return (groups * scale.to(dtype)[..., None]).flatten(-2)[..., :width]


def _int8(weight: Tensor | LazyTensor, moments: Tensor | None = None) -> Weights:
    """A matrix as integers of -127 to 127, with a scale for every GROUP neighboring inputs of a row.

    moments : of what is multiplied with it; without, integers are the nearest
    """
    factor = cache(lambda: None if moments is None else spreading_factor(moments))
    return _stored_int8(weight, weight.shape[1], lambda rows: _int8_rows(rows.float(), factor()))


def _turned_int8(weight: Tensor | LazyTensor, moments: Tensor | None = None) -> Weights:
    """The same of what rotated inputs are multiplied with."""
    factor = cache(lambda: None if moments is None else spreading_factor(turned_moments(moments)))
    return _stored_int8(weight, whole(weight.shape[1]), lambda rows: _int8_rows(turned(rows), factor()))


def turned_moments(moments: Tensor) -> Tensor:
    """Those of rotated inputs, on both sides."""
    return turned(turned(moments).T)


def _stored_int8(weight: Tensor | LazyTensor, inputs: int, convert: Callable[[Tensor], Sequence[Tensor]]) -> Weights:
    outputs, groups = weight.shape[0], whole(inputs) // GROUP
    made = {"weight": ((outputs, inputs), torch.int8), "scale": ((outputs, groups), torch.bfloat16)}
    return by_rows(weight, convert, made)


class Int8Linear(nn.Module):
    """A linear layer whose weights have 8 bits, and what it reads 16: the weights stay in their file, and are shared.

    weight : Tensor of int8, shape (outputs, inputs)
    scale  : Tensor of bfloat16, shape (outputs, inputs / GROUP, rounded up)
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(
            torch.ones(outputs, whole(inputs) // GROUP, dtype=torch.bfloat16), requires_grad=False
        )
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    stored = staticmethod(_int8)
    integers = staticmethod(_same)

    def forward(self, x: Tensor) -> Tensor:
        """The layer, shape (..., outputs), for x of shape (..., inputs)."""
        return self.part(x, 0, len(self.weight))

    def matrix(self, start: int, stop: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights of outputs `start` to `stop`, shape (stop - start, inputs)."""
        return _restored(self.integers(self.weight[start:stop]), self.scale[start:stop], dtype)

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Outputs `start` to `stop` alone, shape (..., stop - start)."""
        y = linear(x, self.matrix(start, stop, x.dtype))
        return y if self.bias is None else y + self.bias[start:stop]


class Int8Embedding(nn.Module):
    """Token embeddings of 8 bits, by which tokens are scored as `Int8Linear` does it."""

    dtype = torch.bfloat16

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocab_size, width, dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(
            torch.ones(vocab_size, whole(width) // GROUP, dtype=torch.bfloat16), requires_grad=False
        )

    stored = staticmethod(_int8)
    integers = staticmethod(_same)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embeddings, shape (..., width)."""
        return self.rows(token_ids).to(self.dtype)

    def words(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """As `TokenEmbedding.words`: a table of these tokens alone."""
        return self(token_ids.flatten()), torch.arange(token_ids.numel()).view_as(token_ids)

    def rows(self, token_ids: Tensor | slice) -> Tensor:
        """Embeddings, shape (..., width), in float32."""
        return _restored(self.integers(self.weight[token_ids]), self.scale[token_ids])

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores of all tokens, shape (..., vocab_size), for hidden states of shape (..., width)."""
        return linear(hidden, self.rows(slice(None)).to(hidden.dtype))


class Int8DynamicLinear(Int8Linear):
    """A linear layer that multiplies integers, once it is packed: what it reads has 8 bits too. The fastest on a CPU.

    Where no kernel multiplies integers, what it reads stays as it is.

    weight : of whole groups, each rotated (`prelim.kernels.rotation`)
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(whole(inputs), outputs, bias=bias)
        self._inputs = inputs

    stored = staticmethod(_turned_int8)

    def matrix(self, start: int, stop: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The weights of outputs `start` to `stop`, shape (stop - start, inputs)."""
        return turned(super().matrix(start, stop))[:, : self._inputs].to(dtype)


class Int8DynamicEmbedding(Int8Embedding):
    """Token embeddings of 8 bits, by which tokens are scored as `Int8DynamicLinear` does it."""

    dtype = torch.float32

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__(vocab_size, whole(width))
        self._width = width

    stored = staticmethod(_turned_int8)

    def rows(self, token_ids: Tensor | slice) -> Tensor:
        """Embeddings, shape (..., width), in float32."""
        return rotated(super().rows(token_ids))[..., : self._width]


class NF4Linear(nn.Module):
    """A linear layer whose weights have 4 bits: bitsandbytes' NormalFloat, without double quantization.

    Source: Dettmers et al., "QLoRA", 2023, section 3.

    weight : Tensor of uint8, shape (inputs * outputs / 2, 1), as bitsandbytes packs it
    absmax : Tensor of float32, shape (inputs * outputs / NF4_BLOCK,)
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        if inputs * outputs % NF4_BLOCK:
            raise ValueError(f"nf4 stores {NF4_BLOCK} weights together; {outputs} x {inputs} cannot be divided so")
        self.shape = (outputs, inputs)
        self.weight = nn.Parameter(torch.zeros(inputs * outputs // 2, 1, dtype=torch.uint8), requires_grad=False)
        self.absmax = nn.Parameter(torch.zeros(inputs * outputs // NF4_BLOCK), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self._state: Any = None

    @staticmethod
    def stored(weight: Tensor | LazyTensor, moments: Tensor | None = None) -> Weights:
        """How a matrix is stored; what it is multiplied with decides nothing."""
        numbers = weight.shape[0] * weight.shape[1]
        made = {"weight": ((numbers // 2, 1), torch.uint8), "absmax": ((numbers // NF4_BLOCK,), torch.float32)}
        return by_rows(weight, _nf4, made)

    def forward(self, x: Tensor) -> Tensor:
        """The layer, shape (..., outputs), for x of shape (..., inputs)."""
        if self.shape[1] % NF4_BLOCK:
            # bitsandbytes' kernel for a CPU takes the scale of the wrong block where a block crosses rows.
            return linear(x, self.dequantized().to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        from bitsandbytes.autograd._functions import matmul_4bit
        from bitsandbytes.functional import QuantState, get_4bit_type

        if self._state is None:
            code = get_4bit_type("nf4", device=self.weight.device)  # type: ignore[no-untyped-call]
            self._state = QuantState(  # type: ignore[no-untyped-call]
                self.absmax, torch.Size(self.shape), code, NF4_BLOCK, quant_type="nf4", dtype=x.dtype
            )
        return matmul_4bit(x, self.weight.t(), self._state, bias=self.bias)

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Outputs `start` to `stop` alone, shape (..., stop - start)."""
        return self(x)[..., start:stop]

    def parts(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Packed numbers and scales of outputs `start` to `stop`, and what each of the 16 numbers stands for."""
        from bitsandbytes.functional import get_4bit_type

        first, last = start * self.shape[1], stop * self.shape[1]
        code = get_4bit_type("nf4", device=self.weight.device)  # type: ignore[no-untyped-call]
        return self.weight.flatten()[first // 2 : last // 2], self.absmax[first // NF4_BLOCK : last // NF4_BLOCK], code

    def dequantized(self) -> Tensor:
        """The weights in float32, shape (outputs, inputs)."""
        packed, absmax, code = self.parts(0, self.shape[0])
        numbers = torch.stack([packed >> 4, packed & 15], dim=1).flatten().long()
        return (code[numbers].view(-1, NF4_BLOCK) * absmax[:, None]).view(self.shape)


def _nf4(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The packed numbers of rows of whole blocks, and their scales."""
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(rows.float(), blocksize=NF4_BLOCK, quant_type="nf4")
    return packed, state.absmax
