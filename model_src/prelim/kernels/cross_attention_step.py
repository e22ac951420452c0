"""One decoding step of a cross-attention decoder as one call: all layers, all rows, all threads.

As in `causal_lm_step`, every thread works on its share of each phase, and between phases they wait for each other.
"""

import itertools
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import carray, cfunc, from_dtype, types
from torch import Tensor

from prelim.kernels import GROUP, team
from prelim.kernels.attention import Cached, cached_numbers
from prelim.kernels.kept import Kernel, kernel
from prelim.kernels.product import Numbers, Product
from prelim.kernels.rows import address
from prelim.kernels.step_parts import (
    ACTIVATIONS,
    Activation,
    activate,
    attend,
    embed,
    normalize_head,
    part_product,
    settle,
)

_barrier = team.barrier

_SIZES = ("layers", "width", "heads", "head_width", "head_hidden")
_FLAGS = ("pre_norm", "feedforward_relu", "head_norm", "embedding_norm")
_INPUTS = ("width_inputs", "inner_inputs", "vocab_inputs")
_TABLES = ("added", "embedding_norms", "norms", "head_norms", "matrices")
_FIXED = (*_SIZES, *_FLAGS, *_INPUTS, "blank", "max_positions", *_TABLES)
_CALL = ("first_slot", "slots", "rows", "length", "columns", "tokens", "all_words")
_TENSORS = ("words", "word_ids", "token_ids", "positions", "places", "mask", "logits")
_ROOM = ("x", "y", "part", "qkv", "gathered", "wide", "scored", "values", "scales", "corrections")
_ARGUMENTS = np.dtype(
    [(name, np.float32) for name in ("eps", "embedding_scale")]
    + [(name, np.int64) for name in (*_FIXED, *_CALL, *_TENSORS, *_ROOM)],
    align=True,
)

QKV, TEXT_OUT, QUERY, IMAGE_OUT, UP, DOWN = range(6)
"""The products of a layer, in their order."""


@kernel
def _step(numbers: Numbers, vocab_numbers: Numbers, cached: Cached, activation: Activation) -> Any:
    product, score_tokens = part_product(numbers), part_product(vocab_numbers)
    embedded, attend_to, activated = embed(cached), attend(cached), activate(activation)
    size = _ARGUMENTS.itemsize

    @cfunc(types.void(types.CPointer(from_dtype(_ARGUMENTS))))
    def step(pointer):
        arguments = carray(pointer, 1)
        a = arguments[0]
        last = 6 * a.layers
        matrices = carray(address(a.matrices), (last + 2, 4), np.int64)
        # After the arguments: of each layer the addresses of keys and values, of the text and then of the images.
        keys_values = carray(address(arguments.ctypes.data + size), (a.layers, 4), np.int64)
        mask = carray(address(a.mask), (a.slots * a.rows, a.length), np.bool_)
        everywhere = np.ones((1, a.tokens), np.bool_)
        embedded(a)
        settle(a, 0)
        _barrier()
        for number in range(last + 1 if a.head_hidden else last):
            kind = number % 6 if number < last else UP
            reads = a.wide if kind == DOWN else a.gathered if kind in (TEXT_OUT, IMAGE_OUT) else a.y
            product(a, reads, matrices[number], a.qkv if kind in (QKV, QUERY) else a.part)
            if kind == UP:
                activated(a, matrices[number, 3], a.wide if number < last else a.scored, matrices[number + 1, 2])
            _barrier()
            if kind in (QKV, QUERY):
                kv = keys_values[number // 6]
                if kind == QKV:
                    attend_to(a, kv[0], kv[1], a.columns, mask, True)
                else:
                    attend_to(a, kv[2], kv[3], a.tokens, everywhere, False)
                _barrier()
            elif kind != UP:
                settle(a, (number + 1) // 2)
                _barrier()
        if a.head_norm:
            normalize_head(a)
            _barrier()
        score_tokens(a, a.scored if a.head_hidden else a.y, matrices[last + 1], a.logits)

    return step


class CrossAttentionStep:
    """The step of one decoder.

    positions        : Tensor, shape (max_positions, width): what is added to the embedding of a word
    embedding_norm   : Tensor, shape (2, width): weights and biases of the norm of these sums, if there is one
    layers           : six products of every layer: of self-attention before and after, of cross-attention before (its
                       queries alone) and after, and the two of the feed-forward
    norms            : Tensor, shape (3 * layers + 1, 2, width): weights and biases in the order in which they are
                       applied. With `pre_norm` the last one follows the last layer; otherwise the first one is not used
    head             : the product before the vocabulary's, if there is one
    head_norm        : Tensor, shape (2, head_hidden), if there is one
    vocabulary       : the product that scores tokens
    vocab_bias       : Tensor, shape (vocab_size,), in place of the product's
    activation       : one of ACTIVATIONS
    blank            : token without an embedding, whose queries get the mean of what they may look at; None: no token
    embedding_scale, feedforward_relu : as in `CrossAttentionConfig`
    """

    def __init__(
        self,
        *,
        positions: Tensor,
        embedding_norm: Tensor | None,
        layers: list[tuple[Product, ...]],
        norms: Tensor,
        head: Product | None,
        head_norm: Tensor | None,
        vocabulary: Product,
        vocab_bias: Tensor | None,
        heads: int,
        head_width: int,
        activation: str,
        blank: int | None,
        embedding_scale: float,
        pre_norm: bool,
        feedforward_relu: bool,
        eps: float,
    ) -> None:
        products = [*sum(layers, ()), vocabulary if head is None else head, vocabulary]
        (qkv, out, _, _, up, down), *_ = layers
        head_hidden = 0 if head is None else head.outputs
        self._numbers, self._outputs, width = (qkv.numbers, vocabulary.numbers), vocabulary.outputs, norms.shape[2]
        self._activation = ACTIVATIONS[activation]
        matrices = np.array([(p.weights, p.bias.data_ptr(), p.inputs, p.outputs) for p in products], np.int64)
        bias = vocabulary.bias if vocab_bias is None else vocab_bias.float().contiguous()
        matrices[-1, 1] = bias.data_ptr()
        given = positions, embedding_norm, norms, head_norm
        tables = [torch.empty(0) if table is None else table.float().contiguous() for table in given]
        self._held = products, matrices, tables, bias
        deepest = max(product.inputs for product in products)
        # Numbers of 4 bytes for each row.
        room = (
            *(width, qkv.inputs, max(up.outputs, width, head_hidden)),
            *(qkv.outputs, out.inputs, down.inputs, vocabulary.inputs),
            *(deepest, deepest // GROUP, deepest // GROUP),
        )
        self._starts = tuple(itertools.accumulate(room, initial=0))
        self._kernels: dict[torch.dtype, Kernel] = {}
        fixed = {
            "layers": len(layers),
            "width": width,
            "heads": heads,
            "head_width": head_width,
            "head_hidden": head_hidden,
            "pre_norm": pre_norm,
            "feedforward_relu": feedforward_relu,
            "head_norm": head_norm is not None,
            "embedding_norm": embedding_norm is not None,
            "width_inputs": qkv.inputs,
            "inner_inputs": out.inputs,
            "vocab_inputs": vocabulary.inputs,
            # No token has a negative id.
            "blank": -1 if blank is None else blank,
            "max_positions": len(positions),
            **dict(zip(_TABLES, (*(table.data_ptr() for table in tables), matrices.ctypes.data), strict=True)),
        }
        arguments = np.zeros(1, _ARGUMENTS)
        arguments["eps"], arguments["embedding_scale"] = eps, embedding_scale
        for name in _FIXED:
            arguments[name] = fixed[name]
        self._fixed: list[int] = arguments.view(np.int64)[: 1 + len(_FIXED)].tolist()

    def __call__(
        self,
        words: tuple[Tensor, Tensor],
        token_ids: Tensor,
        positions: Tensor,
        mask: Tensor,
        caches: Sequence[Tensor],
        columns: Tensor,
        images: Sequence[tuple[Tensor, Tensor]],
        slots: slice,
    ) -> Tensor:
        """Scores of all tokens, shape (slots, rows, vocab_size).

        words     : a table of embeddings, shape (words, width), and which of them each token has, shape (slots, rows)
        token_ids : Tensor of int64, shape (slots, rows)
        positions : of the same shape
        mask      : Tensor of bool, shape (slots, 1, rows, length)
        caches    : of every layer, shape (2, all slots, heads, all columns, head_width)
        columns   : Tensor of int64, shape (slots, rows): where the keys and values of these tokens go
        images    : keys and values of every layer, each of shape (all slots, heads, tokens, head_width)
        slots     : those of cache and images that take part
        """
        (count, rows), (cache, *_), ((image_keys, _), *_) = token_ids.shape, caches, images
        table, word_ids = words
        table = table.to(cache.dtype)
        held = [tensor.contiguous() for tensor in (table, word_ids, token_ids, positions, columns, mask)]
        logits = torch.empty(count, rows, self._outputs)
        # Inputs that no output precedes are zero, and so is the part before the first one.
        room = torch.zeros(count * rows * self._starts[-1])
        first, half = room.data_ptr(), cache.nbytes // 2
        keys_values: list[int] = []
        for text, (keys, values) in zip(caches, images, strict=True):
            at = text.data_ptr()
            keys_values += at, at + half, keys.data_ptr(), values.data_ptr()
        arguments = array(
            "q",
            [
                *self._fixed,
                *(slots.start, count, rows, mask.shape[3], cache.shape[3], image_keys.shape[2], len(table)),
                *(tensor.data_ptr() for tensor in (*held, logits)),
                *(first + 4 * count * rows * start for start in self._starts[:-1]),
                *keys_values,
            ],
        )
        team.run(self._kernel(cache.dtype), arguments.buffer_info()[0])
        return logits

    def _kernel(self, dtype: torch.dtype) -> Kernel:
        """For a cache of this dtype; `_step` would look for it by what all its arguments are."""
        if dtype not in self._kernels:
            self._kernels[dtype] = _step(*self._numbers, cached_numbers(dtype), self._activation)
        return self._kernels[dtype]
