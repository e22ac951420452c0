"""Dequantizes weights that bitsandbytes has quantized, one at a time, when each is needed.

Sources: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", NeurIPS 2023 (nf4, fp4, double quantization);
Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", NeurIPS 2022.
"""

import math
import re
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prelim.decoders.weights_file import LazyTensor, Weights
from prelim.errors import ArchiveError

_STATE_4BIT = re.compile(r"\.quant_state\.bitsandbytes__(nf4|fp4)$")
_PARTS_4BIT = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_SCALES_8BIT = re.compile(r"\.SCB$")
_ROW_MAJOR = 0
"""The `weight_format` that bitsandbytes writes; old versions could also write GPU-specific layouts."""


def dequantize_weights(tensors: Weights) -> dict[str, Tensor | LazyTensor]:
    """Replace the quantized tensors of a state_dict by lazy tensors of their original shapes.

    4 bits : packed `NAME`, with `NAME.absmax`, `NAME.quant_map`, `NAME.quant_state.bitsandbytes__nf4` (or fp4) and,
             with double quantization, `NAME.nested_absmax` and `NAME.nested_quant_map`; restored in the recorded dtype
    8 bits : int8 `LAYER.weight`, with `LAYER.SCB` and `LAYER.weight_format`; restored in float16, from which
             LLM.int8() quantizes, because no dtype is recorded

    Raises ArchiveError naming the weight if its parts are missing or inconsistent.
    """
    found = dict(tensors)
    for key in tensors:
        if match := _STATE_4BIT.search(key):
            name = key[: match.start()]
            parts = {part: found.pop(f"{name}.{part}") for part in _PARTS_4BIT if f"{name}.{part}" in tensors}
            found[name] = _read_4bit(name, tensors.get(name), {**parts, key[len(name) + 1 :]: found.pop(key)})
        elif match := _SCALES_8BIT.search(key):
            name = f"{key[: match.start()]}.weight"
            found[name] = _read_8bit(name, tensors.get(name), found.pop(key), found.pop(f"{name}_format", None))
    return found


def _read_4bit(name: str, packed: Tensor | LazyTensor | None, parts: dict[str, Any]) -> LazyTensor:
    # Imported here because it takes seconds and most checkpoints do not need it.
    from bitsandbytes.functional import QuantState

    try:
        state: Any = QuantState.from_dict(parts, device=torch.device("cpu"))
        size = math.prod(state.shape)
        scales = -(-size // state.blocksize)
        # The library's kernels trust these sizes: a wrong one would read out of bounds.
        fitting = state.absmax.numel() == scales and (
            not state.nested or state.state2.absmax.numel() == -(-scales // state.state2.blocksize)
        )
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ArchiveError(f"{name} cannot be dequantized: {type(error).__name__}: {error}") from error
    if not isinstance(packed, Tensor) or packed.numel() * packed.itemsize != -(-size // 2) or not fitting:
        raise ArchiveError(f"{name} does not fit its quant_state: shape {tuple(state.shape)} in 4 bits")
    return LazyTensor(tuple(state.shape), state.dtype, partial(_dequantize_4bit, packed, state))


def _dequantize_4bit(packed: Tensor, state: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    # The packed bytes may be stored as another dtype, for libraries that can only store floats.
    return dequantize_4bit(packed.contiguous().view(torch.uint8).reshape(-1, 1), state)


def _read_8bit(name: str, values: Tensor | LazyTensor | None, scales: Any, form: Any) -> LazyTensor:
    if form is not None and int(form) != _ROW_MAJOR:
        raise ArchiveError(
            f"{name}_format is {int(form)}; allowed: {_ROW_MAJOR} (row). Save the model again in that format"
        )
    if not isinstance(values, Tensor) or values.dtype != torch.int8 or tuple(scales.shape) != tuple(values.shape[:1]):
        raise ArchiveError(f"{name} is not an int8 matrix with one row per scale; SCB has shape {tuple(scales.shape)}")
    return LazyTensor(tuple(values.shape), torch.float16, partial(_dequantize_8bit, values, scales))


def _dequantize_8bit(values: Tensor, scales: Tensor) -> Tensor:
    from bitsandbytes.functional import int8_vectorwise_dequant

    return int8_vectorwise_dequant(values, scales).half()
