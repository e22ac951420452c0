"""Layers that multiply each row by itself, with weights laid out for the processor or where they are stored.

What a layer gives for a row then depends on that row alone, so that a report is the same alone and in any batch:
docs/decisions/0018-batch-invariance.md. Packed weights are a copy in memory, for a worker that shares them with nobody.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from prelim.decoders.causal_lm import CausalLMDecoder
from prelim.decoders.cross_attention import CrossAttentionDecoder, DecoderLayer
from prelim.decoders.linear import AdaptedLinear
from prelim.decoders.quantized import (
    Int8DynamicEmbedding,
    Int8DynamicLinear,
    Int8Embedding,
    Int8Linear,
    NF4Linear,
    ProductFunction,
)
from prelim.decoders.step_attention import StepAttention
from prelim.decoders.token_embedding import TokenEmbedding
from prelim.decoders.weights_file import let_go
from prelim.kernels import GROUP, fits, packs, unavailable

STEP_ROWS = 16
"""At most so many rows of a request take part in a step; more queries than that are a prefix."""

_DTYPES = (torch.float32, torch.bfloat16)
_DYNAMIC = (Int8DynamicLinear, Int8DynamicEmbedding)
_FEW_BITS = (Int8Linear, Int8Embedding, NF4Linear)

MakeFunction = Callable[[Any, int, int], ProductFunction]
"""Layer, first and last (exclusive) of the outputs -> their product."""


def _reorder(layer: Any, start: int, stop: int) -> ProductFunction:
    """The product by oneDNN, in blocks of its own choice."""
    bias = getattr(layer, "bias", None)
    packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight[start:stop].contiguous(), None)
    bias = None if bias is None else bias[start:stop]
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _compile(layer: Any, start: int, stop: int, *, packed: bool) -> ProductFunction:
    """The product by a kernel of our own, which a compiled step uses as well."""
    # numba takes a second to import.
    from prelim.kernels import product

    bias = getattr(layer, "bias", None)
    bias = None if bias is None else bias[start:stop]
    if isinstance(layer, NF4Linear):
        numbers, absmax, code = layer.parts(start, stop)
        if layer.shape[1] % GROUP == 0:
            return product.nf4_product(numbers, absmax, code, (stop - start, layer.shape[1]), bias)
        return product.stored_product(layer.dequantized()[start:stop], None, bias)
    weight: Tensor = layer.weight[start:stop]
    scale: Any = layer.scale[start:stop] if hasattr(layer, "scale") else None
    if fits(weight) and (packed or isinstance(layer, _DYNAMIC)):
        made = product.packed_product(weight, scale, bias)
        let_go(weight)
        return made
    make = product.turned_product if isinstance(layer, _DYNAMIC) else product.stored_product
    return make(weight, scale, bias)


class PackedLinear(nn.Module):
    """A linear layer by products that are made when they are first wanted.

    prefix : prefixes are read by the layer itself, whose kernels are made for many rows
    """

    def __init__(self, layer: nn.Linear | Int8Linear | NF4Linear, make: MakeFunction, *, prefix: bool) -> None:
        super().__init__()
        self.layer = layer
        self._outputs = layer.shape[0] if isinstance(layer, NF4Linear) else len(layer.weight)
        self._make, self._prefix = make, prefix
        self._products: dict[tuple[int, int], ProductFunction] = {}

    @property
    def weight(self) -> Tensor:
        """That of the layer."""
        return self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        """The layer, shape (..., outputs), for x of shape (..., queries, inputs)."""
        if self._prefix and x.shape[-2] > STEP_ROWS:
            y: Tensor = self.layer(x)
            return y
        return self.product()(x)

    def part(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Outputs `start` to `stop` alone, shape (..., stop - start)."""
        if self._prefix and x.shape[-2] > STEP_ROWS:
            y: Tensor = self.layer.part(x, start, stop)  # type: ignore[operator]
            return y
        return self.product(start, stop)(x)

    def product(self, start: int = 0, stop: int | None = None) -> ProductFunction:
        """The product that gives outputs `start` to `stop`."""
        stop = self._outputs if stop is None else stop
        if (start, stop) not in self._products:
            self._products[start, stop] = self._make(self.layer, start, stop)
        return self._products[start, stop]


class PackedAdapted(nn.Module):
    """A linear layer and its low-rank adapter, as `AdaptedLinear`, each row by itself."""

    def __init__(self, layer: AdaptedLinear, make: MakeFunction) -> None:
        super().__init__()
        self.base = layer.base
        self._adapter = [make(_Matrix(weight), 0, len(weight)) for weight in (layer.down, layer.up)]

    def forward(self, x: Tensor) -> Tensor:
        """The adapted layer, shape (..., outputs), for x of shape (..., inputs)."""
        down, up = self._adapter
        y: Tensor = self.base(x)
        return y + up(down(x))


class _Matrix:
    """A weight as `MakeFunction` reads it."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight


class PackedTokenEmbedding(nn.Module):
    """Token embeddings that score tokens by a product; rows are looked up where they are stored."""

    def __init__(self, table: TokenEmbedding | Int8Embedding, make: MakeFunction) -> None:
        super().__init__()
        self.table = table
        self._make = make
        self._product: ProductFunction | None = None

    def forward(self, token_ids: Tensor) -> Tensor:
        """Embeddings, shape (..., width)."""
        embeddings: Tensor = self.table(token_ids)
        return embeddings

    def words(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the table."""
        return self.table.words(token_ids)

    def scores(self, hidden: Tensor) -> Tensor:
        """Scores of all tokens, shape (..., vocab_size), for hidden states of shape (..., width)."""
        return self.product()(hidden)

    def product(self) -> ProductFunction:
        """The product that scores tokens."""
        if self._product is None:
            self._product = self._make(self.table, 0, len(self.table.weight))
        return self._product


def pack(decoder: nn.Module, *, shared: bool = False) -> nn.Module:
    """The decoder with layers that multiply each row by itself, where this processor has kernels for it.

    shared : weights are used where they are stored, else in a packed copy where that is faster

    A decoder whose layers all have such products decodes by a compiled step from then on. Why a step is not compiled is
    in the decoder's `not_compiled`.
    """
    device = next(decoder.parameters()).device
    reason = unavailable() if device.type == "cpu" else f"the decoder is on {device.type}"
    copies = not shared and not any(isinstance(m, _FEW_BITS) and not isinstance(m, _DYNAMIC) for m in decoder.modules())
    if reason is None:
        _replace(decoder, partial(_compile, packed=copies), prefix=not copies)
    elif copies and device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        _replace(decoder, _reorder, prefix=False)
    if isinstance(decoder, CausalLMDecoder | CrossAttentionDecoder):
        decoder.not_compiled = reason
        if reason is None:
            decoder.step_attending = StepAttention
            compile_step: Any = _causal_lm_step if isinstance(decoder, CausalLMDecoder) else _cross_attention_step
            decoder.compiled = compile_step(decoder)
            if decoder.compiled is None:
                decoder.not_compiled = "its layers have adapters, or widths that are not multiples of 64"
    return decoder


def _replace(decoder: nn.Module, make: MakeFunction, *, prefix: bool) -> None:
    """Replace layers by products, innermost first."""
    for parent in reversed(list(decoder.modules())):
        for name, layer in list(parent.named_children()):
            if make is _reorder and isinstance(layer, _FEW_BITS):
                continue
            if make is _reorder and isinstance(layer, nn.Linear | TokenEmbedding) and layer.weight.dtype not in _DTYPES:
                continue
            if isinstance(layer, TokenEmbedding | Int8Embedding):
                setattr(parent, name, PackedTokenEmbedding(layer, make))
            elif isinstance(layer, nn.Linear | Int8Linear | NF4Linear):
                own = not packs(torch.int8) if isinstance(layer, _DYNAMIC) else prefix
                setattr(parent, name, PackedLinear(layer, make, prefix=own))
            elif isinstance(layer, AdaptedLinear) and make is not _reorder:
                setattr(parent, name, PackedAdapted(layer, make))


_Part = tuple[Any, int, int | None]
"""A layer, and first and last (exclusive) of its outputs that a step wants."""


def _products(parts: Sequence[_Part], vocabulary: Any) -> tuple[list[Any], Any] | None:
    """The products of a step and the one that scores tokens; None if not all are compiled, or not alike."""
    from prelim.kernels.product import Product

    kinds = PackedLinear | PackedTokenEmbedding
    if not all(isinstance(layer, kinds) for layer in (*(layer for layer, _, _ in parts), vocabulary)):
        return None
    found = [layer.product(start, stop) for layer, start, stop in parts]
    scores = vocabulary.product()
    if not all(isinstance(product, Product) for product in (*found, scores)):
        return None
    return found, scores


def _causal_lm_step(decoder: CausalLMDecoder) -> Any:
    """The step of a decoder whose products are all compiled, else None."""
    from prelim.kernels.causal_lm_step import CompiledStep, StepShape

    c = decoder.config
    stack: list[Any] = list(decoder.layers)
    # A step has no room for inputs that a product has added.
    if any(width % GROUP for width in (c.width, c.heads * stack[0].head_width, c.feedforward)):
        return None
    layers = [linear for layer in stack for linear in (layer.qkv, layer.out, layer.up, layer.down)]
    vocabulary: Any = decoder.words if decoder.lm_head is None else decoder.lm_head
    found = _products([(layer, 0, None) for layer in layers], vocabulary)
    if found is None:
        return None
    # Where attention and feed-forward read the same, the second norm of a layer is not used.
    norms = [norm for layer in stack for norm in (layer.norm1, layer.norm2 or layer.norm1)] + [decoder.norm]
    # Nothing has been computed before the first norm, so the first of these is not used.
    posts = [decoder.norm, *(norm for layer in stack for norm in (layer.post_norm1, layer.post_norm2))]
    heads = [torch.stack([layer.query_norm.both(), layer.key_norm.both()]) for layer in stack if c.query_key_norms]
    return CompiledStep(
        layers=[tuple(found[0][i : i + 4]) for i in range(0, len(layers), 4)],
        norms=torch.stack([norm.both() for norm in norms]),
        post_norms=torch.stack([norm.both() for norm in posts]) if c.post_norms else None,
        head_norms=torch.stack(heads) if heads else None,
        vocabulary=found[1],
        shape=StepShape(
            heads=c.heads,
            kv_heads=c.kv_heads or c.heads,
            kinds=c.kinds,
            gated=c.gated,
            activation=c.activation,
            layer_norm=c.norm == "layer_norm",
            parallel=c.parallel,
            eps=c.norm_eps,
        ),
    )


def _cross_attention_step(decoder: CrossAttentionDecoder) -> Any:
    """The step of a decoder whose products are all compiled and read the same numbers, else None."""
    from prelim.kernels.cross_attention_step import CrossAttentionStep

    c, stack = decoder.config, cast("list[DecoderLayer]", list(decoder.layers))
    inner = stack[0].cross_attention.inner_width
    parts: list[_Part] = []
    for layer in stack:
        text, image = layer.self_attention, layer.cross_attention
        parts += [(text.in_proj, 0, None), (text.out_proj, 0, None), (image.in_proj, 0, inner)]
        parts += [(image.out_proj, 0, None), (layer.linear1, 0, None), (layer.linear2, 0, None)]
    if decoder.lm_hidden is not None:
        parts.append((decoder.lm_hidden, 0, None))
    found = _products(parts, decoder.token_embedding if decoder.lm_head is None else decoder.lm_head)
    if found is None:
        return None
    products, vocabulary = found
    if len({product.numbers for product in products}) > 1:
        # Where some are too narrow to be packed, all are used where they are stored.
        if not all(isinstance(layer, PackedLinear) and isinstance(layer.layer, nn.Linear) for layer, _, _ in parts):
            return None
        of_parts = zip(parts, products, strict=True)
        products = [_compile(layer.layer, at, at + p.outputs, packed=False) for (layer, at, _), p in of_parts]
    norms = [norm for layer in stack for norm in (layer.norm1, layer.norm2, layer.norm3)]
    norms = [norms[0], *norms] if decoder.norm is None else [*norms, decoder.norm]
    return CrossAttentionStep(
        positions=decoder.position_embedding,
        embedding_norm=None if decoder.embedding_norm is None else _both(decoder.embedding_norm),
        layers=[tuple(products[i : i + 6]) for i in range(0, 6 * c.layers, 6)],
        norms=torch.stack([_both(norm) for norm in norms]),
        head=None if decoder.lm_hidden is None else products[-1],
        head_norm=None if decoder.lm_norm is None else _both(decoder.lm_norm),
        vocabulary=vocabulary,
        vocab_bias=decoder.lm_bias,
        heads=c.heads,
        head_width=inner // c.heads,
        activation=c.activation,
        blank=c.pad_token_id if c.blank_padding else None,
        embedding_scale=c.embedding_scale,
        pre_norm=c.pre_norm,
        feedforward_relu=c.feedforward_relu,
        eps=c.norm_eps,
    )


def _both(norm: nn.LayerNorm) -> Tensor:
    """Weight and bias, shape (2, width)."""
    return torch.stack([norm.weight, norm.bias])
