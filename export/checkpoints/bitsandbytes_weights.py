"""Weights that bitsandbytes has quantised, dequantised one by one as they are needed.

Sources: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", NeurIPS 2023 (nf4, fp4, double quantisation);
Dettmers et al., "LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale", NeurIPS 2022.
"""

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prelim.decoders.weights_file import LazyTensor
from prelim.errors import ArchiveError

_STATE_4BIT = re.compile(r"\.quant_state\.bitsandbytes__(nf4|fp4)$")
_PARTS_4BIT = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_SCALES_8BIT = re.compile(r"\.SCB$")
_ROW_MAJOR = 0
"""The `weight_format` that bitsandbytes writes; old versions could also write what a kind of GPU wants."""

Weights = Mapping[str, Tensor | LazyTensor]


def dequantised(tensors: Weights) -> dict[str, Tensor | LazyTensor]:
    """The tensors of a state_dict, those that bitsandbytes has quantised as lazy ones of their original shape.

    4 bits : `NAME` packed, beside `NAME.absmax`, `NAME.quant_map`, `NAME.quant_state.bitsandbytes__nf4` (or fp4) and,
             with double quantisation, `NAME.nested_absmax` and `NAME.nested_quant_map`; made in the recorded dtype
    8 bits : `LAYER.weight` of int8, beside `LAYER.SCB` and `LAYER.weight_format`; made in float16, from which
             LLM.int8() quantises, since none is recorded

    Raises ArchiveError that names the weight whose parts are missing or do not fit each other.
    """
    found = dict(tensors)
    for key in tensors:
        if match := _STATE_4BIT.search(key):
            name = key[: match.start()]
            parts = {part: found.pop(f"{name}.{part}") for part in _PARTS_4BIT if f"{name}.{part}" in tensors}
            found[name] = _of_4_bits(name, tensors.get(name), {**parts, key[len(name) + 1 :]: found.pop(key)})
        elif match := _SCALES_8BIT.search(key):
            name = f"{key[: match.start()]}.weight"
            found[name] = _of_8_bits(name, tensors.get(name), found.pop(key), found.pop(f"{name}_format", None))
    return found


def _of_4_bits(name: str, packed: Tensor | LazyTensor | None, parts: dict[str, Any]) -> LazyTensor:
    # Importing it takes seconds, and most checkpoints need it not.
    from bitsandbytes.functional import QuantState

    try:
        state: Any = QuantState.from_dict(parts, device=torch.device("cpu"))
        size = math.prod(state.shape)
        scales = -(-size // state.blocksize)
        # The library's kernels read as much memory as these numbers say.
        fitting = state.absmax.numel() == scales and (
            not state.nested or state.state2.absmax.numel() == -(-scales // state.state2.blocksize)
        )
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ArchiveError(f"{name} cannot be dequantised: {type(error).__name__}: {error}") from error
    if not isinstance(packed, Tensor) or packed.numel() * packed.itemsize != -(-size // 2) or not fitting:
        raise ArchiveError(f"{name} does not fit its quant_state, which says shape {tuple(state.shape)} in 4 bits")
    return LazyTensor(tuple(state.shape), state.dtype, partial(_from_4_bits, packed, state))


def _from_4_bits(packed: Tensor, state: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    # The packed values may be stored under another dtype, for libraries that only move floats about.
    return dequantize_4bit(packed.contiguous().view(torch.uint8).reshape(-1, 1), state)


def _of_8_bits(name: str, values: Tensor | LazyTensor | None, scales: Any, form: Any) -> LazyTensor:
    if form is not None and int(form) != _ROW_MAJOR:
        raise ArchiveError(f"{name}_format is {int(form)}; allowed: {_ROW_MAJOR} (row). Save the model again with it")
    if not isinstance(values, Tensor) or values.dtype != torch.int8 or tuple(scales.shape) != tuple(values.shape[:1]):
        raise ArchiveError(f"{name} does not fit the scales (SCB) of {tuple(scales.shape)} rows of int8 beside it")
    return LazyTensor(tuple(values.shape), torch.float16, partial(_from_8_bits, values, scales))


def _from_8_bits(values: Tensor, scales: Tensor) -> Tensor:
    from bitsandbytes.functional import int8_vectorwise_dequant

    return int8_vectorwise_dequant(values, scales).half()
