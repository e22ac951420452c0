"""One decoding step of a causal language model as one call: all layers, all rows, all threads.

Every thread runs the step and works on its share of each phase; between phases they wait for each other. So a step
costs what its memory traffic costs, and not what some forty operations a layer cost to call.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import carray, cfunc, from_dtype, types
from torch import Tensor

from prelim.kernels import GROUP, team
from prelim.kernels.attention import Cached, cached_numbers
from prelim.kernels.causal_lm_parts import ACTIVATIONS, activate, attend, keep_last, norm, normalize, rotate
from prelim.kernels.kept import kernel
from prelim.kernels.product import Numbers, Product, StoredRows, multiply, share
from prelim.kernels.rows import address

_barrier = team.barrier

_SIZES = (
    *("layers", "width", "heads", "kv_heads", "head_width", "feedforward", "vocab_size"),
    *("gated", "activation", "layer_norm", "parallel", "post", "head_normed"),
)
_CALL = ("first_slot", "slots", "rows", "length", "all_slots", "columns", "rotary", "prefix")
_ADDRESSES = (
    *("x", "qkv", "gathered", "part", "logits", "places", "masks", "caches", "cosines", "sines"),
    *("values", "scales", "corrections", "wide_values", "wide_scales", "wide_corrections"),
    *("norms", "post_norms", "head_norms", "kinds", "matrices", "vocab_weights", "vocab_bias"),
)
_ARGUMENTS = np.dtype([(name, np.int64) for name in (*_SIZES, *_CALL, *_ADDRESSES)] + [("eps", np.float32)], align=True)


@kernel
def _step(numbers: Numbers, vocab_numbers: Numbers, cached: Cached) -> Any:
    product, normalized, activated, attending = multiply(numbers), normalize(numbers), activate(numbers), attend(cached)
    score_tokens = multiply(vocab_numbers)
    store, dtype, cache_dtype = numbers.store, numbers.dtype, cached.dtype

    @cfunc(types.void(types.CPointer(from_dtype(_ARGUMENTS))))
    def step(pointer):
        a = carray(pointer, 1)[0]
        rows = a.slots * a.rows
        inner, all_heads = a.heads * a.head_width, a.heads + 2 * a.kv_heads
        heads_width = all_heads * a.head_width
        x = carray(address(a.x), (rows, a.width), np.float32)
        qkv = carray(address(a.qkv), (rows, heads_width), np.float32)
        by_head = carray(address(a.qkv), (a.slots, a.rows, all_heads, a.head_width), np.float32)
        gathered = carray(address(a.gathered), (rows, inner), np.float32)
        gathered_heads = carray(address(a.gathered), (a.slots, a.rows, a.heads, a.head_width), np.float32)
        # The same memory for rows of both widths, which are not needed at once.
        v_width, v_inner = (
            carray(address(a.values), (rows, a.width), dtype),
            carray(address(a.values), (rows, inner), dtype),
        )
        s_width, s_inner = (
            carray(address(a.scales), (rows, a.width // GROUP), np.float32),
            carray(address(a.scales), (rows, inner // GROUP), np.float32),
        )
        c_width, c_inner = (
            carray(address(a.corrections), (rows, a.width // GROUP), np.int32),
            carray(address(a.corrections), (rows, inner // GROUP), np.int32),
        )
        wide_values = carray(address(a.wide_values), (rows, a.feedforward), dtype)
        wide_scales = carray(address(a.wide_scales), (rows, a.feedforward // GROUP), np.float32)
        wide_corrections = carray(address(a.wide_corrections), (rows, a.feedforward // GROUP), np.int32)
        places = carray(address(a.places), (a.slots, a.rows), np.int64)
        # Of every kind of layer.
        masks = carray(address(a.masks), (2, a.slots, a.rows, a.length), np.bool_)
        cosines = carray(address(a.cosines), (2, a.slots, a.rows, a.head_width), np.float32)
        sines = carray(address(a.sines), (2, a.slots, a.rows, a.head_width), np.float32)
        kinds = carray(address(a.kinds), (a.layers,), np.int64)
        caches = carray(address(a.caches), (a.layers,), np.int64)
        norms = carray(address(a.norms), (2 * a.layers + 1, 2, a.width), np.float32)
        post_norms = carray(address(a.post_norms), (2 * a.layers + 1, 2, a.width), np.float32)
        head_norms = carray(address(a.head_norms), (a.layers, 2, 2, a.head_width), np.float32)
        part = carray(address(a.part), (rows, a.width), np.float32)
        added, adding = part if a.post else x, not a.post
        matrices = carray(address(a.matrices), (a.layers, 4, 2), np.int64)
        room = np.empty(a.width, np.float32)
        columns = np.empty(a.length, np.int32), np.empty(a.length, np.float32)
        for layer in range(a.layers):
            m = matrices[layer]
            kind = kinds[layer]
            # Before the first layer there is nothing to add.
            post = a.post if layer else 0
            normalized(
                *(x, norms, 2 * layer, post, part, post_norms, a.layer_norm, a.eps),
                *(room, v_width, s_width, c_width),
            )
            _barrier()
            bias = carray(address(m[0, 1]), (heads_width,), np.float32)
            product(m[0, 0], bias, v_width, s_width, c_width, qkv, False)
            # Of gates too, if there are some: nothing asks for its length.
            up_bias = carray(address(m[2, 1]), (a.feedforward,), np.float32)
            if a.parallel:
                activated(
                    *(m[2, 0], up_bias, v_width, s_width, c_width, a.gated, a.activation),
                    *(wide_values, wide_scales, wide_corrections),
                )
            _barrier()
            kept = carray(address(caches[layer]), (2, a.all_slots, a.kv_heads, a.columns, a.head_width), cache_dtype)
            first, last = share(a.slots * a.kv_heads)
            for unit in range(first, last):
                slot, head = unit // a.kv_heads, unit % a.kv_heads
                together = a.heads // a.kv_heads
                for row in range(a.rows):
                    turning = by_head[slot, row]
                    for h in range(head * together, (head + 1) * together):
                        if a.head_normed:
                            norm(turning[h], head_norms[layer, 0], a.layer_norm, a.eps, turning[h])
                        if a.rotary:
                            rotate(turning[h], cosines[kind, slot, row], sines[kind, slot, row])
                    if a.head_normed:
                        norm(
                            turning[a.heads + head], head_norms[layer, 1], a.layer_norm, a.eps, turning[a.heads + head]
                        )
                    if a.rotary:
                        rotate(turning[a.heads + head], cosines[kind, slot, row], sines[kind, slot, row])
                key, value = kept[0, a.first_slot + slot, head], kept[1, a.first_slot + slot, head]
                attending(
                    *(a.heads, by_head[slot], key, value, places[slot], masks[kind, slot], head, a.prefix),
                    *(columns, gathered_heads[slot]),
                )
            _barrier()
            first, last = share(rows)
            for row in range(first, last):
                store(gathered[row], v_inner[row], s_inner[row], c_inner[row])
            _barrier()
            bias = carray(address(m[1, 1]), (a.width,), np.float32)
            product(m[1, 0], bias, v_inner, s_inner, c_inner, added, adding)
            _barrier()
            if not a.parallel:
                normalized(
                    *(x, norms, 2 * layer + 1, a.post, part, post_norms, a.layer_norm, a.eps),
                    *(room, v_width, s_width, c_width),
                )
                _barrier()
                activated(
                    *(m[2, 0], up_bias, v_width, s_width, c_width, a.gated, a.activation),
                    *(wide_values, wide_scales, wide_corrections),
                )
                _barrier()
            bias = carray(address(m[3, 1]), (a.width,), np.float32)
            product(m[3, 0], bias, wide_values, wide_scales, wide_corrections, added, adding)
            _barrier()
        scored = rows
        if a.prefix:
            scored = a.slots
            keep_last(x, part, a.rows, a.post)
            _barrier()
        normalized(
            *(x[:scored], norms, 2 * a.layers, a.post, part, post_norms, a.layer_norm, a.eps, room),
            *(v_width, s_width, c_width),
        )
        _barrier()
        logits = carray(address(a.logits), (scored, a.vocab_size), np.float32)
        bias = carray(address(a.vocab_bias), (a.vocab_size,), np.float32)
        score_tokens(a.vocab_weights, bias, v_width[:scored], s_width, c_width, logits, False)

    return step


@dataclass(frozen=True)
class StepShape:
    """What the products of a step do not show.

    kinds      : of every layer: the number of its rotation and mask
    gated      : the first product of the feed-forward gives gates, and then what they gate
    activation : one of ACTIVATIONS
    layer_norm : the norms are layer norms, else RMS norms
    parallel   : attention and feed-forward of a layer read the same
    """

    heads: int
    kv_heads: int
    kinds: Sequence[int]
    gated: bool
    activation: str
    layer_norm: bool
    parallel: bool
    eps: float


class CompiledStep:
    """The step of one decoder.

    layers     : the products of every layer: before and after attention, first and second of the feed-forward
    norms      : Tensor, shape (2 * layers + 1, 2, width): weights and biases, the last that of the last norm
    post_norms : Tensor of the same shape: those of what has been computed before each norm, which is added then; None
                 where that is added as it is
    head_norms : Tensor, shape (layers, 2, 2, head_width): weights and biases of the norms of queries and keys; None
                 where there are none
    vocabulary : the product that scores tokens; it reads rows of the same numbers
    """

    def __init__(
        self,
        *,
        layers: list[tuple[Product, ...]],
        norms: Tensor,
        post_norms: Tensor | None,
        head_norms: Tensor | None,
        vocabulary: Product,
        shape: StepShape,
    ) -> None:
        self._products = layers, vocabulary
        self._norms = [None if norm is None else norm.float().contiguous() for norm in (norms, post_norms, head_norms)]
        self._matrices = np.array(
            [[(p.weights, p.bias.data_ptr()) for p in layer] for layer in layers],
            np.int64,
        )
        self._kinds = np.array(shape.kinds, np.int64)
        (qkv, out, _, down), *_ = layers
        self._numbers, self._vocab_numbers = qkv.numbers, vocabulary.numbers
        self._qkv, self._inner, self._feedforward, self._vocabulary = qkv.outputs, out.inputs, down.inputs, vocabulary
        self._post = post_norms is not None
        self._fixed = np.zeros(1, _ARGUMENTS)
        addresses = [0 if norm is None else norm.data_ptr() for norm in self._norms]
        values = {
            "layers": len(layers),
            "width": qkv.inputs,
            "heads": shape.heads,
            "kv_heads": shape.kv_heads,
            "head_width": out.inputs // shape.heads,
            "feedforward": down.inputs,
            "vocab_size": vocabulary.outputs,
            "gated": shape.gated,
            "activation": ACTIVATIONS.index(shape.activation),
            "layer_norm": shape.layer_norm,
            "parallel": shape.parallel,
            "post": self._post,
            "head_normed": head_norms is not None,
            **dict(zip(("norms", "post_norms", "head_norms"), addresses, strict=True)),
            "kinds": self._kinds.ctypes.data,
            "matrices": self._matrices.ctypes.data,
            "vocab_weights": vocabulary.weights,
            "vocab_bias": vocabulary.bias.data_ptr(),
            "eps": shape.eps,
        }
        for name, value in values.items():
            self._fixed[name] = value

    @property
    def reads_prefixes(self) -> bool:
        """Whether it is the fastest for prefixes as well."""
        return self._numbers.packed

    def __call__(
        self,
        x: Tensor,
        rotations: Sequence[tuple[Tensor, Tensor]],
        masks: Sequence[Tensor],
        caches: Sequence[Tensor],
        columns: Tensor,
        slots: slice,
        *,
        prefix: bool = False,
    ) -> Tensor:
        """Scores of all tokens, shape (slots, rows, vocab_size); after a prefix those of its last row alone.

        x         : Tensor, shape (slots, rows, width), embeddings of the tokens
        rotations : of every kind of layer: cosines and sines, each of shape (slots, rows, 1, head_width); empty where
                    positions are learned
        masks     : of every kind of layer: Tensor of bool, shape (slots, 1, rows, length)
        caches    : of every layer, shape (2, all slots, kv_heads, all columns, head_width)
        columns   : Tensor of int64, shape (slots, rows): where the keys and values of these tokens go
        slots     : those of the cache that take part
        prefix    : the rows of a slot are those of its prefix
        """
        held = x.float().contiguous().clone(), _of_kinds(masks), columns.contiguous()
        count, rows, width = x.shape
        total = count * rows
        qkv = torch.empty(total, self._qkv)
        gathered = torch.empty(total, self._inner)
        part = torch.empty(total if self._post else 0, width)
        logits = torch.empty(count, 1 if prefix else rows, self._vocabulary.outputs)
        narrow = StoredRows(self._numbers, total, max(width, self._inner))
        wide = StoredRows(self._numbers, total, self._feedforward)
        addresses = np.array([layer.data_ptr() for layer in caches], np.int64)
        cache, *_ = caches
        turns = [_of_kinds(turn).float() for turn in zip(*rotations, strict=True)]
        call = {
            "first_slot": slots.start,
            "slots": count,
            "rows": rows,
            "length": masks[0].shape[-1],
            "all_slots": cache.shape[1],
            "columns": cache.shape[3],
            "rotary": bool(turns),
            "prefix": prefix,
            "x": held[0].data_ptr(),
            "masks": held[1].data_ptr(),
            "places": held[2].data_ptr(),
            "qkv": qkv.data_ptr(),
            "gathered": gathered.data_ptr(),
            "part": part.data_ptr(),
            "logits": logits.data_ptr(),
            "caches": addresses.ctypes.data,
        }
        arguments = self._fixed.copy()
        for name, value in call.items():
            arguments[name] = value
        for name, turn in zip(("cosines", "sines"), turns, strict=False):
            arguments[name] = turn.data_ptr()
        names = ("values", "scales", "corrections")
        for name, address_, wide_address in zip(names, narrow.addresses(), wide.addresses(), strict=True):
            arguments[name], arguments[f"wide_{name}"] = address_, wide_address
        team.run(_step(self._numbers, self._vocab_numbers, cached_numbers(cache.dtype)), arguments.ctypes.data)
        return logits


def _of_kinds(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors of all kinds of layers, one after the other in memory."""
    return tensors[0].contiguous() if len(tensors) == 1 else torch.stack(list(tensors))
