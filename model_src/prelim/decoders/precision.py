"""In what precision a decoder's weights are stored and computed with."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prelim.decoders.four_bits import Int4DynamicEmbedding, Int4DynamicLinear
from prelim.decoders.quantized import (
    Int8DynamicEmbedding,
    Int8DynamicLinear,
    Int8Embedding,
    Int8Linear,
    NF4Linear,
)
from prelim.decoders.row_blocks import by_rows
from prelim.decoders.token_embedding import TokenEmbedding
from prelim.decoders.weights_file import LazyTensor, Weights


@dataclass(frozen=True)
class Precision:
    """A way to store and use the weights of a decoder.

    dtype     : of every tensor that is not quantized, and of what flows between layers
    linear    : replaces linear layers
    embedding : replaces embeddings that also score tokens
    scores    : the layer that scores tokens is quantized too
    """

    dtype: torch.dtype
    linear: type[Int8Linear] | type[NF4Linear] | None = None
    embedding: type[Int8Embedding] | None = None
    scores: bool = True


PRECISIONS = {
    "fp32": Precision(torch.float32),
    "bf16": Precision(torch.bfloat16),
    "int8": Precision(torch.bfloat16, Int8Linear, Int8Embedding),
    "int8_dynamic": Precision(torch.float32, Int8DynamicLinear, Int8DynamicEmbedding),
    "int4_dynamic": Precision(torch.float32, Int4DynamicLinear, Int4DynamicEmbedding),
    # As QLoRA does it, the scores of tokens stay in 16 bits.
    "nf4": Precision(torch.bfloat16, NF4Linear, scores=False),
}


ON_A_GPU = ("fp32", "bf16", "nf4")
"""Precisions that a GPU multiplies; in any other one, weights are restored for each product."""


FASTEST_FIRST = {
    "x86-64 with AVX512-VNNI": ("int8_dynamic", "bf16"),
    "x86-64 with AVX512": ("int8_dynamic", "bf16"),
    "x86-64 with AVX-VNNI": ("int8_dynamic", "bf16"),
    "x86-64 with AVX2": ("int8_dynamic", "bf16"),
    "aarch64 with SDOT": ("int8_dynamic", "bf16"),
    # Nothing multiplies integers, and weights of 8 bits are widened for each call.
    "aarch64": ("bf16",),
    "without compiled steps": ("bf16",),
    "GPU": ("bf16",),
}
"""Precisions that are faster than fp32 by the kind of processor, `prelim.kernels.family`."""

_QUANTIZED = (Int8Linear, Int8Embedding, NF4Linear)
_EXACT = ("inverse_frequencies", "window_frequencies")
"""Tensors that lose their meaning when they are rounded."""


def quantize(decoder: nn.Module, precision: str) -> nn.Module:
    """Replace the decoder's layers by those of a precision; their weights are still to be loaded.

    Raises ValueError where a layer cannot be stored so.
    """
    wanted = PRECISIONS[precision]
    tied = getattr(decoder, "lm_head", None) is None
    for parent_name, parent in list(decoder.named_modules()):
        for name, layer in list(parent.named_children()):
            new = _replacement(layer, wanted, tied=tied, scores=not parent_name and name == "lm_head")
            if new is not None:
                setattr(parent, name, new)
    return decoder


def _replacement(layer: nn.Module, wanted: Precision, *, tied: bool, scores: bool) -> nn.Module | None:
    with torch.device("meta"):
        if isinstance(layer, nn.Linear) and wanted.linear is not None and (wanted.scores or not scores):
            return wanted.linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        if isinstance(layer, TokenEmbedding) and wanted.embedding is not None and tied:
            return wanted.embedding(layer.num_embeddings, layer.embedding_dim)
    return None


Moments = Mapping[str, Tensor]
"""Layer -> the sum of x x' over all x that it read, shape (inputs, inputs)."""


def stored_weights(
    decoder: nn.Module, weights: Weights, precision: str, moments: Moments | None = None
) -> dict[str, Tensor | LazyTensor]:
    """The weights of a decoder as they are stored.

    decoder : as `quantize` made it
    weights : of the decoder as it was before
    moments : of the layers whose integers are rounded by what they read; others are rounded to the nearest
    """
    moments = moments or {}
    dtype = PRECISIONS[precision].dtype
    quantized = {f"{name}.": layer for name, layer in decoder.named_modules() if isinstance(layer, _QUANTIZED)}
    stored: dict[str, Tensor | LazyTensor] = {}
    for name, tensor in weights.items():
        layer = name.removesuffix("weight")
        if layer != name and layer in quantized:
            parts = quantized[layer].stored(tensor, moments.get(layer.removesuffix(".")))
            stored |= {layer + leaf: part for leaf, part in parts.items()}
        else:
            stored[name] = tensor if name in _EXACT else _as(tensor, dtype)
    return stored


def _as(tensor: Tensor | LazyTensor, dtype: torch.dtype) -> Tensor | LazyTensor:
    """A tensor in another dtype, converted when it is written; integers stay as they are."""
    if tensor.dtype == dtype or not tensor.dtype.is_floating_point:
        return tensor
    return by_rows(tensor, lambda rows: (rows.to(dtype),), {"": (tuple(tensor.shape), dtype)})[""]
