"""Linear layers whose weights are laid out for the processor's matrix kernels.

A few rows are multiplied with weights as they lie in a file several times slower than with weights in blocks. The
blocks are a copy in memory: `pack` is for a worker that has nobody to share its weights with.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from prelim.decoders.causal_lm import CausalLMDecoder
from prelim.decoders.quantized import Int8DynamicEmbedding, Int8DynamicLinear
from prelim.decoders.word_embedding import WordEmbedding
from prelim.kernels import fits

_DTYPES = (torch.float32, torch.bfloat16)

Product = Callable[[Tensor], Tensor]
"""Rows of shape (..., inputs) -> (..., outputs)."""

MakeProduct = Callable[[Tensor, Tensor | None], Product]
"""Weight, of shape (outputs, inputs), and bias -> the product with a packed copy of it."""


def _reordered(weight: Tensor, bias: Tensor | None) -> Product:
    """The product by oneDNN, in blocks of its own choice."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _compiled(weight: Tensor, bias: Tensor | None) -> Product:
    """The product by a kernel of our own, which a compiled step uses as well."""
    # numba takes a second to import, and small decoders do not need it.
    from prelim.kernels.product import Product

    return Product(weight, None, bias)


class PackedLinear(nn.Module):
    """A linear layer with packed weights, which are packed when they are first wanted."""

    def __init__(self, layer: nn.Linear, make: MakeProduct) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._make = make
        self._products: dict[tuple[int, int], Product] = {}

    def forward(self, x: Tensor) -> Tensor:
        """The layer, shape (..., outputs), for x of shape (..., inputs)."""
        return self.product()(x)

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Outputs `start` to `stop` alone, shape (..., stop - start)."""
        return self.product(start, stop)(x)

    def product(self, start: int = 0, stop: int | None = None) -> Product:
        """The product that gives outputs `start` to `stop`."""
        stop = len(self.weight) if stop is None else stop
        if (start, stop) not in self._products:
            bias = None if self.bias is None else self.bias[start:stop]
            self._products[start, stop] = self._make(self.weight[start:stop], bias)
        return self._products[start, stop]


class PackedWordEmbedding(nn.Module):
    """Word embeddings by which words are scored with packed weights; rows are looked up where they lie in the file."""

    def __init__(self, words: WordEmbedding, make: MakeProduct) -> None:
        super().__init__()
        self.weight = words.weight
        self._make = make
        self._product: Product | None = None

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embeddings, shape (..., width)."""
        return nn.functional.embedding(token_ids, self.weight)

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores of all words, shape (..., words), for hidden states of shape (..., width)."""
        return self.product()(hidden)

    def product(self) -> Product:
        """The product that scores words."""
        if self._product is None:
            self._product = self._make(self.weight, None)
        return self._product


def pack(decoder: nn.Module) -> nn.Module:
    """The decoder with packed layers in the place of those that are not quantised, where the processor can do it.

    A causal language model whose layers all have compiled products decodes by `CompiledStep` from then on.
    """
    language = isinstance(decoder, CausalLMDecoder)
    for parent in list(decoder.modules()):
        for name, layer in list(parent.named_children()):
            if not isinstance(layer, nn.Linear | WordEmbedding) or (make := _maker(layer.weight, language)) is None:
                continue
            if isinstance(layer, WordEmbedding):
                setattr(parent, name, PackedWordEmbedding(layer, make))
            else:
                setattr(parent, name, PackedLinear(layer, make))
    if isinstance(decoder, CausalLMDecoder):
        decoder.compiled = _compiled_step(decoder)
    return decoder


def _maker(weight: Tensor, language: bool) -> MakeProduct | None:
    if language and fits(weight):
        return _compiled
    known = weight.device.type == "cpu" and weight.dtype in _DTYPES
    return _reordered if known and torch.backends.mkldnn.is_available() else None  # type: ignore[no-untyped-call]


def _compiled_step(decoder: CausalLMDecoder) -> Any:
    """The step of a decoder whose products are all compiled, else None."""
    stack: list[Any] = list(decoder.layers)
    layers = [(layer.qkv, layer.out, layer.up, layer.down) for layer in stack]
    words: Any = decoder.words if decoder.lm_head is None else decoder.lm_head
    kinds = PackedLinear | PackedWordEmbedding | Int8DynamicLinear | Int8DynamicEmbedding
    if not all(isinstance(layer, kinds) and fits(layer.weight) for layer in (*sum(layers, ()), words)):
        return None
    from prelim.kernels.causal_lm_step import CompiledStep

    c = decoder.config
    norms = [norm for layer in stack for norm in (layer.norm1, layer.norm2)] + [decoder.norm]
    return CompiledStep(
        layers=[tuple(layer.product() for layer in of_layer) for of_layer in layers],
        norms=torch.stack([norm.both() for norm in norms]),
        words=words.product(),
        heads=c.heads,
        kv_heads=c.kv_heads or c.heads,
        gated=c.gated,
        silu=c.activation == "silu",
        layer_norm=c.norm == "layer_norm",
        eps=c.norm_eps,
    )
