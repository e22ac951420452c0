"""Linear layers and token embeddings with fewer than 16 bits a weight.

Each class says with `stored` how the weights of the layer that it stands for are stored, and computes with those.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from prelim.decoders.weights_file import LazyTensor, Weights, materialize
from prelim.kernels import NF4_BLOCK, fits

ProductFunction = Callable[[Tensor], Tensor]
"""Rows of shape (..., inputs) -> (..., outputs)."""

FEW_ROWS = 24
"""Up to so many rows PyTorch's kernel for 8-bit weights beats making 16-bit ones of them first (measured on a CPU)."""


def _int8_scale(weight: Tensor) -> Tensor:
    """What one unit of each row's integers is worth: bfloat16, so that no kernel has to round it further."""
    peak = weight.float().abs().amax(dim=1)
    scale = (peak / 127).to(torch.bfloat16)
    # Rounded down, the largest weight would no longer fit.
    too_small = scale.float() * 127 < peak
    scale = torch.where(too_small, (scale.float() * (1 + 2**-7)).to(torch.bfloat16), scale)
    return scale.where(scale > 0, 1)


def _int8_weight(weight: Tensor) -> Tensor:
    scale = _int8_scale(weight).float()
    return (weight.float() / scale[:, None]).round().clamp(-127, 127).to(torch.int8)


def _int8(weight: Tensor | LazyTensor) -> Weights:
    """A matrix as integers of -127 to 127 with one scale a row."""
    shape = tuple(weight.shape)
    return {
        "weight": LazyTensor(shape, torch.int8, lambda: _int8_weight(materialize(weight))),
        "scale": LazyTensor(shape[:1], torch.bfloat16, lambda: _int8_scale(materialize(weight))),
    }


class Int8Linear(nn.Module):
    """A linear layer whose weights have 8 bits, and what it reads 16: the weights stay in their file, and are shared.

    weight : Tensor of int8, shape (outputs, inputs)
    scale  : Tensor of bfloat16, shape (outputs,)
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(outputs, dtype=torch.bfloat16), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    stored = staticmethod(_int8)

    def forward(self, x: Tensor) -> Tensor:
        """The layer, shape (..., outputs), for x of shape (..., inputs)."""
        return self.part(x, 0, len(self.weight))

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Outputs `start` to `stop` alone, shape (..., stop - start)."""
        y = _int8_product(x, self.weight[start:stop], self.scale[start:stop])
        return y if self.bias is None else y + self.bias[start:stop]


class Int8Embedding(nn.Module):
    """Token embeddings of 8 bits, by which tokens are scored as `Int8Linear` does it."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(vocab_size, width, dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.ones(vocab_size, dtype=torch.bfloat16), requires_grad=False)

    stored = staticmethod(_int8)

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embeddings, shape (..., width)."""
        return self.weight[token_ids] * self.scale[token_ids][..., None]

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores of all tokens, shape (..., vocab_size), for hidden states of shape (..., width)."""
        return _int8_product(hidden, self.weight, self.scale)


def _int8_product(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """X in 16 bits times the transposed weights."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    # The kernel loads whole registers and does not check alignment; it crashes on unaligned input.
    fits = rows.shape[1] % 32 == rows.data_ptr() % 16 == weight.data_ptr() % 16 == 0
    if len(rows) <= FEW_ROWS and x.device.type == "cpu" and fits:
        y = torch._weight_int8pack_mm(rows, weight, scale)
    else:
        y = linear(rows, weight.to(x.dtype)) * scale
    return y.view(*x.shape[:-1], -1)


class _Fbgemm:
    """A product with 8-bit weights by FBGEMM, for processors that `prelim.kernels` has nothing for.

    What is multiplied with the weights is rounded to 8 bits too, each row by its own largest value: so no row depends
    on which others are computed with it. Source: Khudia et al., "FBGEMM", 2021; Dettmers et al., "LLM.int8()", 2022,
    section 2, for scales by row.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        zero_points = torch.zeros(len(scale), dtype=torch.int64)
        with warnings.catch_warnings():
            # That quantized tensors will go from a later PyTorch: docs/decisions/0010-int8-on-a-cpu.md.
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch._make_per_channel_quantized_tensor(weight, scale.double(), zero_points, 0)
        self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self._bias = bias
        # Without VNNI the kernel adds two products in 16 bits, for which what is multiplied must have 7.
        self._levels = 127 if torch.cpu._is_vnni_supported() else 63

    def __call__(self, x: Tensor) -> Tensor:
        # A row of zeros becomes NaN, which the kernel reads as some integer; times the peak of zero it is zero again.
        peak = x.abs().amax(dim=-1, keepdim=True)
        y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / peak, 1 / self._levels, self._levels + 1, self._packed
        )
        return y.mul_(peak) if self._bias is None else torch.addcmul(self._bias, y, peak)


def _product(weight: Tensor, scale: Tensor, bias: Tensor | None) -> ProductFunction:
    """Weights packed for the fastest product that there is: a copy, of this process alone."""
    if not fits(weight):
        return _Fbgemm(weight, scale, bias)
    # numba takes a second to import, and only this precision needs it.
    from prelim.kernels.product import packed_product

    return packed_product(weight, scale, bias)


class Int8DynamicLinear(Int8Linear):
    """A linear layer that multiplies integers: weights and what it reads have 8 bits. The fastest on a CPU."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self._products: dict[tuple[int, int], ProductFunction] = {}

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Outputs `start` to `stop` alone, shape (..., stop - start)."""
        return self.product(start, stop)(x)

    def product(self, start: int = 0, stop: int | None = None) -> ProductFunction:
        """The product that gives outputs `start` to `stop`, packed when it is first wanted."""
        stop = len(self.weight) if stop is None else stop
        if (start, stop) not in self._products:
            bias = None if self.bias is None else self.bias[start:stop]
            self._products[start, stop] = _product(self.weight[start:stop], self.scale[start:stop], bias)
        return self._products[start, stop]


class Int8DynamicEmbedding(Int8Embedding):
    """Token embeddings of 8 bits, by which tokens are scored as `Int8DynamicLinear` does it."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__(vocab_size, width)
        self._product: ProductFunction | None = None

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores of all tokens, shape (..., vocab_size), for hidden states of shape (..., width)."""
        return self.product()(hidden)

    def product(self) -> ProductFunction:
        """The product that scores tokens, packed when it is first wanted."""
        if self._product is None:
            self._product = _product(self.weight, self.scale, None)
        return self._product


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
    def stored(weight: Tensor | LazyTensor) -> Weights:
        """How a matrix is stored."""
        numbers = weight.shape[0] * weight.shape[1]
        return {
            "weight": LazyTensor((numbers // 2, 1), torch.uint8, partial(_nf4, weight, 0)),
            "absmax": LazyTensor((numbers // NF4_BLOCK,), torch.float32, partial(_nf4, weight, 1)),
        }

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


def _nf4(weight: Tensor | LazyTensor, which: int) -> Tensor:
    """The packed numbers, or their scales."""
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(materialize(weight).float(), blocksize=NF4_BLOCK, quant_type="nf4")
    return (packed, state.absmax)[which]
