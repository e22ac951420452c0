"""One decoding step of a cross-attention decoder as one call: all layers, all rows, all threads.

As in `causal_lm_step`, every thread works on its share of each phase, and between phases they wait for each other.
"""

import itertools
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
    normalize_head,
    part_product,
    settle,
)

_barrier = team.barrier

_SIZES = ("layers", "width", "heads", "head_width", "head_hidden")
_FLAGS = ("pre_norm", "feedforward_relu", "head_norm")
_INPUTS = ("width_inputs", "inner_inputs", "vocab_inputs")
_FIXED = (*_SIZES, *_FLAGS, *_INPUTS, "norms", "head_norms", "matrices")
_CALL = ("first_slot", "slots", "rows", "length", "columns", "tokens")
_TENSORS = ("x", "places", "mask", "seen", "keys_values", "logits")
_ROOM = ("blank", "y", "part", "qkv", "gathered", "wide", "scored", "values", "scales", "corrections")
_ARGUMENTS = np.dtype(
    [("eps", np.float32), *((name, np.int64) for name in (*_FIXED, *_CALL, *_TENSORS, *_ROOM))], align=True
)

QKV, TEXT_OUT, QUERY, IMAGE_OUT, UP, DOWN = range(6)
"""The products of a layer, in their order."""


@kernel
def _step(numbers: Numbers, vocab_numbers: Numbers, cached: Cached, activation: Activation) -> Any:
    product, score_tokens = part_product(numbers), part_product(vocab_numbers)
    attend_to, activated = attend(cached), activate(activation)

    @cfunc(types.void(types.CPointer(from_dtype(_ARGUMENTS))))
    def step(pointer):
        a = carray(pointer, 1)[0]
        last = 6 * a.layers
        matrices = carray(address(a.matrices), (last + 2, 4), np.int64)
        keys_values = carray(address(a.keys_values), (a.layers, 4), np.int64)
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
                text = kind == QKV
                at = 0 if text else 2
                kv, columns = keys_values[number // 6], a.columns if text else a.tokens
                length, mask = a.length if text else a.tokens, a.mask if text else a.seen
                attend_to(a, kv[at], kv[at + 1], columns, length, mask, text)
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

    layers           : six products of every layer: of self-attention before and after, of cross-attention before (its
                       queries alone) and after, and the two of the feed-forward
    norms            : Tensor, shape (3 * layers + 1, 2, width): weights and biases in the order in which they are
                       applied. With `pre_norm` the last one follows the last layer; otherwise the first one is not used
    head             : the product before the vocabulary's, if there is one
    head_norm        : Tensor, shape (2, head_hidden), if there is one
    vocabulary       : the product that scores tokens
    vocab_bias       : Tensor, shape (vocab_size,), in place of the product's
    activation       : one of ACTIVATIONS
    feedforward_relu : as in `CrossAttentionConfig`
    """

    def __init__(
        self,
        *,
        layers: list[tuple[Product, ...]],
        norms: Tensor,
        head: Product | None,
        head_norm: Tensor | None,
        vocabulary: Product,
        vocab_bias: Tensor | None,
        heads: int,
        head_width: int,
        activation: str,
        pre_norm: bool,
        feedforward_relu: bool,
        eps: float,
    ) -> None:
        products = [*sum(layers, ()), vocabulary if head is None else head, vocabulary]
        (qkv, out, _, _, up, down), *_ = layers
        head_hidden = 0 if head is None else head.outputs
        self._numbers, self._vocabulary, self._width = (qkv.numbers, vocabulary.numbers), vocabulary, norms.shape[2]
        self._activation = ACTIVATIONS[activation]
        matrices = np.array([(p.weights, p.bias.data_ptr(), p.inputs, p.outputs) for p in products], np.int64)
        bias = vocabulary.bias if vocab_bias is None else vocab_bias.float().contiguous()
        matrices[-1, 1] = bias.data_ptr()
        tables = norms.float().contiguous(), norms if head_norm is None else head_norm.float().contiguous(), bias
        self._held = products, matrices, tables
        deepest = max(product.inputs for product in products)
        # Numbers of 4 bytes for each row.
        room = (
            *(1, qkv.inputs, max(up.outputs, self._width, head_hidden)),
            *(qkv.outputs, out.inputs, down.inputs, vocabulary.inputs),
            *(deepest, deepest // GROUP, deepest // GROUP),
        )
        self._starts = tuple(itertools.accumulate(room, initial=0))
        self._kernels: dict[torch.dtype, Kernel] = {}
        fixed = {
            "layers": len(layers),
            "width": self._width,
            "heads": heads,
            "head_width": head_width,
            "head_hidden": head_hidden,
            "pre_norm": pre_norm,
            "feedforward_relu": feedforward_relu,
            "head_norm": head_norm is not None,
            "width_inputs": qkv.inputs,
            "inner_inputs": out.inputs,
            "vocab_inputs": vocabulary.inputs,
            "norms": tables[0].data_ptr(),
            "head_norms": tables[1].data_ptr(),
            "matrices": matrices.ctypes.data,
        }
        arguments = np.zeros(1, _ARGUMENTS)
        arguments["eps"] = eps
        for name in _FIXED:
            arguments[name] = fixed[name]
        self._fixed = arguments.view(np.int64)

    def __call__(
        self,
        x: Tensor,
        blank: Tensor | None,
        mask: Tensor,
        caches: Sequence[Tensor],
        columns: Tensor,
        images: Sequence[tuple[Tensor, Tensor]],
        slots: slice,
    ) -> Tensor:
        """Scores of all tokens, shape (slots, rows, vocab_size).

        x       : Tensor, shape (slots, rows, width), what the first layer reads; the step changes it
        blank   : Tensor of bool, shape (slots, rows), True for rows that get the mean of what they may look at
        mask    : Tensor of bool, shape (slots, 1, rows, length)
        caches  : of every layer, shape (2, all slots, heads, all columns, head_width)
        columns : Tensor of int64, shape (slots, rows): where the keys and values of these tokens go
        images  : keys and values of every layer, each of shape (all slots, heads, tokens, head_width)
        slots   : those of cache and images that take part
        """
        count, rows, _ = x.shape
        (image_keys, _), *_ = images
        cache, *_ = caches
        total, tokens = count * rows, image_keys.shape[2]
        seen = torch.ones(total, tokens, dtype=torch.bool)
        held = x.float().contiguous(), columns.contiguous(), mask.contiguous(), seen
        logits = torch.empty(count, rows, self._vocabulary.outputs)
        # Inputs that no output precedes are zero, and so are the part before the first one and rows that are not blank.
        room = torch.zeros(total * self._starts[-1])
        if blank is not None:
            room.view(torch.bool)[:total] = blank.flatten()
        first = room.data_ptr()
        addresses: list[int] = []
        for text, (keys, values) in zip(caches, images, strict=True):
            at = text.data_ptr()
            addresses += [at, at + text.nbytes // 2, keys.data_ptr(), values.data_ptr()]
        keys_values = np.array(addresses, np.int64)
        call = slots.start, count, rows, mask.shape[-1], cache.shape[3], tokens
        arguments = self._fixed.copy()
        arguments[1 + len(_FIXED) :] = [
            *call,
            *(tensor.data_ptr() for tensor in held),
            *(keys_values.ctypes.data, logits.data_ptr()),
            *(first + 4 * total * start for start in self._starts[:-1]),
        ]
        team.run(self._kernel(cache.dtype), arguments.ctypes.data)
        return logits

    def _kernel(self, dtype: torch.dtype) -> Kernel:
        """For a cache of this dtype; `_step` would look for it by what all its arguments are."""
        if dtype not in self._kernels:
            self._kernels[dtype] = _step(*self._numbers, cached_numbers(dtype), self._activation)
        return self._kernels[dtype]
