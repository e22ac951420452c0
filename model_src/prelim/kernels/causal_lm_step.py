"""One decoding step of a causal language model as one call: all layers, all rows, all threads.

Every thread runs the step and works on its share of each phase; between phases they wait for each other. So a step
costs what its memory traffic costs, and not what some forty operations a layer cost to call.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray, cfunc, from_dtype, njit, types
from torch import Tensor

from prelim.kernels import GROUP, team
from prelim.kernels.attention import Cached, cached_numbers, gather
from prelim.kernels.dot import BLOCK
from prelim.kernels.kept import kernel
from prelim.kernels.product import Numbers, Product, StoredRows, multiply, share
from prelim.kernels.rows import FINITE_OR_NOT, address, gelu, layer_norm, rms_norm, silu

_barrier = team.barrier


@cache
def _normalize(numbers: Numbers) -> Any:
    store = numbers.store

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def normalize(x, norms, which, centered, eps, room, values, scales, corrections):
        """The calling thread's share of the rows, normalized and stored as they are multiplied."""
        first, last = share(x.shape[0])
        for row in range(first, last):
            if centered:
                layer_norm(x[row], norms[which, 0], norms[which, 1], eps, room)
            else:
                rms_norm(x[row], norms[which, 0], eps, room)
            store(room, values[row], scales[row], corrections[row])

    return normalize


@njit(fastmath=FINITE_OR_NOT, error_model="numpy")
def _finish(sums, weight_scales, bias, start):
    for j in range(BLOCK):
        sums[j] = sums[j] * weight_scales[start + j] + bias[start + j]


@njit(fastmath=FINITE_OR_NOT, error_model="numpy")
def _apply(silu_, x):
    """The activation, in place; a loop of its own for each, or neither becomes vector code."""
    if silu_:
        for j in range(BLOCK):
            x[j] = silu(x[j])
    else:
        for j in range(BLOCK):
            x[j] = gelu(x[j])


@cache
def _activate(numbers: Numbers) -> Any:
    store, sums_of, max_rows = numbers.store, numbers.sums, numbers.max_rows

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def activate(
        weights, weight_scales, bias, values, scales, corrections, gated, silu_, to_values, to_scales, to_corrections
    ):
        """The calling thread's share of the first half of the feed-forward, as the second half reads."""
        rows = values.shape[0]
        width = to_values.shape[1]
        sums, gates = np.empty((max_rows, BLOCK), np.float32), np.empty((max_rows, BLOCK), np.float32)
        first, last = share(width // BLOCK)
        for block in range(first, last):
            start = block * BLOCK
            second = start + width if gated else start
            for row in range(0, rows, max_rows):
                count = min(max_rows, rows - row)
                if gated:
                    sums_of(weights, start, BLOCK, values, scales, corrections, row, count, gates)
                sums_of(weights, second, BLOCK, values, scales, corrections, row, count, sums)
                for i in range(count):
                    _finish(sums[i], weight_scales, bias, second)
                    if gated:
                        _finish(gates[i], weight_scales, bias, start)
                    _apply(silu_, gates[i] if gated else sums[i])
                    if gated:
                        for j in range(BLOCK):
                            sums[i, j] *= gates[i, j]
                    store(
                        sums[i],
                        to_values[row + i, start : start + BLOCK],
                        to_scales[row + i, block:],
                        to_corrections[row + i, block:],
                    )

    return activate


@njit(fastmath=FINITE_OR_NOT, error_model="numpy")
def _rotate(x, cosine, sine):
    """Rotate a head in place; cosines and sines are the same in both halves of it."""
    half = x.shape[0] // 2
    first, second = x[:half], x[half:]
    for j in range(half):
        a, b = first[j], second[j]
        first[j] = a * cosine[j] - b * sine[j]
        second[j] = b * cosine[j] + a * sine[j]


@cache
def _attend(cached: Cached) -> Any:
    write, gather_rows = cached.write, gather(cached)

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def attend(heads, qkv, keys, values, places, mask, head, room, out):
        """Attention of one head of keys in one slot: every row of the slot, every head of queries that shares the keys.

        qkv          : shape (rows, heads + 2 kv_heads, head_width)
        keys, values : shape (columns, head_width); the rows' own are written at `places`, shape (rows,)
        mask, room   : as in `gather`
        out          : shape (rows, heads, head_width)
        """
        rows, _, width = qkv.shape
        kv_heads = (qkv.shape[1] - heads) // 2
        together = heads // kv_heads
        for row in range(rows):
            for j in range(width):
                keys[places[row], j] = write(qkv[row, heads + head, j])
                values[places[row], j] = write(qkv[row, heads + kv_heads + head, j])
        first, last = head * together, (head + 1) * together
        for row in range(rows):
            gather_rows(qkv[row, first:last], keys, values, mask[row], room, out[row, first:last])

    return attend


_SIZES = (
    *("layers", "width", "heads", "kv_heads", "head_width", "feedforward", "vocab_size"),
    *("gated", "silu", "layer_norm"),
)
_CALL = ("first_slot", "slots", "rows", "length", "all_slots", "columns", "rotary")
_ADDRESSES = (
    *("x", "qkv", "gathered", "logits", "places", "mask", "caches", "cosine", "sine"),
    *("values", "scales", "corrections", "wide_values", "wide_scales", "wide_corrections"),
    *("norms", "matrices", "vocab_weights", "vocab_scales", "vocab_bias"),
)
_ARGUMENTS = np.dtype([(name, np.int64) for name in (*_SIZES, *_CALL, *_ADDRESSES)] + [("eps", np.float32)], align=True)


@kernel
def _step(numbers: Numbers, vocab_numbers: Numbers, cached: Cached) -> Any:
    product, normalize, activate, attend = multiply(numbers), _normalize(numbers), _activate(numbers), _attend(cached)
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
        mask = carray(address(a.mask), (a.slots, a.rows, a.length), np.bool_)
        caches = carray(address(a.caches), (a.layers,), np.int64)
        norms = carray(address(a.norms), (2 * a.layers + 1, 2, a.width), np.float32)
        matrices = carray(address(a.matrices), (a.layers, 4, 3), np.int64)
        room = np.empty(a.width, np.float32)
        columns = np.empty(a.length, np.int32), np.empty(a.length, np.float32)
        for layer in range(a.layers):
            m = matrices[layer]
            normalize(x, norms, 2 * layer, a.layer_norm, a.eps, room, v_width, s_width, c_width)
            _barrier()
            scale = carray(address(m[0, 1]), (heads_width,), np.float32)
            bias = carray(address(m[0, 2]), (heads_width,), np.float32)
            product(m[0, 0], scale, bias, v_width, s_width, c_width, qkv, False)
            _barrier()
            kept = carray(address(caches[layer]), (2, a.all_slots, a.kv_heads, a.columns, a.head_width), cache_dtype)
            first, last = share(a.slots * a.kv_heads)
            for unit in range(first, last):
                slot, head = unit // a.kv_heads, unit % a.kv_heads
                if a.rotary:
                    cosine = carray(address(a.cosine), (a.slots, a.rows, a.head_width), np.float32)
                    sine = carray(address(a.sine), (a.slots, a.rows, a.head_width), np.float32)
                    together = a.heads // a.kv_heads
                    for row in range(a.rows):
                        _rotate(by_head[slot, row, a.heads + head], cosine[slot, row], sine[slot, row])
                        for h in range(head * together, (head + 1) * together):
                            _rotate(by_head[slot, row, h], cosine[slot, row], sine[slot, row])
                key, value = kept[0, a.first_slot + slot, head], kept[1, a.first_slot + slot, head]
                attend(
                    a.heads, by_head[slot], key, value, places[slot], mask[slot], head, columns, gathered_heads[slot]
                )
            _barrier()
            first, last = share(rows)
            for row in range(first, last):
                store(gathered[row], v_inner[row], s_inner[row], c_inner[row])
            _barrier()
            scale, bias = (
                carray(address(m[1, 1]), (a.width,), np.float32),
                carray(address(m[1, 2]), (a.width,), np.float32),
            )
            product(m[1, 0], scale, bias, v_inner, s_inner, c_inner, x, True)
            _barrier()
            normalize(x, norms, 2 * layer + 1, a.layer_norm, a.eps, room, v_width, s_width, c_width)
            _barrier()
            # Of gates too, if there are some: nothing asks for the length of these two.
            scale, bias = (
                carray(address(m[2, 1]), (a.feedforward,), np.float32),
                carray(address(m[2, 2]), (a.feedforward,), np.float32),
            )
            activate(
                *(m[2, 0], scale, bias, v_width, s_width, c_width, a.gated, a.silu),
                *(wide_values, wide_scales, wide_corrections),
            )
            _barrier()
            scale, bias = (
                carray(address(m[3, 1]), (a.width,), np.float32),
                carray(address(m[3, 2]), (a.width,), np.float32),
            )
            product(m[3, 0], scale, bias, wide_values, wide_scales, wide_corrections, x, True)
            _barrier()
        normalize(x, norms, 2 * a.layers, a.layer_norm, a.eps, room, v_width, s_width, c_width)
        _barrier()
        logits = carray(address(a.logits), (rows, a.vocab_size), np.float32)
        scale = carray(address(a.vocab_scales), (a.vocab_size,), np.float32)
        bias = carray(address(a.vocab_bias), (a.vocab_size,), np.float32)
        score_tokens(a.vocab_weights, scale, bias, v_width, s_width, c_width, logits, False)

    return step


class CompiledStep:
    """The step of one decoder.

    layers     : the products of every layer: before and after attention, first and second of the feed-forward
    norms      : Tensor, shape (2 * layers + 1, 2, width): weights and biases, the last that of the last norm
    vocabulary : the product that scores tokens; it reads rows of the same numbers
    gated      : the first product of the feed-forward gives gates, and then what they gate
    silu       : the activation is SiLU, else GELU
    layer_norm : the norms are layer norms, else RMS norms
    """

    def __init__(
        self,
        *,
        layers: list[tuple[Product, ...]],
        norms: Tensor,
        vocabulary: Product,
        heads: int,
        kv_heads: int,
        gated: bool,
        silu: bool,
        layer_norm: bool,
        eps: float,
    ) -> None:
        self._products = layers, vocabulary
        self._norms = norms.float().contiguous()
        self._matrices = np.array(
            [[(p.weights, p.scale.data_ptr(), p.bias.data_ptr()) for p in layer] for layer in layers],
            np.int64,
        )
        (qkv, out, _, down), *_ = layers
        self._numbers, self._vocab_numbers = qkv.numbers, vocabulary.numbers
        self._qkv, self._inner, self._feedforward, self._vocabulary = qkv.outputs, out.inputs, down.inputs, vocabulary
        self._fixed = np.zeros(1, _ARGUMENTS)
        values = {
            "layers": len(layers),
            "width": qkv.inputs,
            "heads": heads,
            "kv_heads": kv_heads,
            "head_width": out.inputs // heads,
            "feedforward": down.inputs,
            "vocab_size": vocabulary.outputs,
            "gated": gated,
            "silu": silu,
            "layer_norm": layer_norm,
            "norms": self._norms.data_ptr(),
            "matrices": self._matrices.ctypes.data,
            "vocab_weights": vocabulary.weights,
            "vocab_scales": vocabulary.scale.data_ptr(),
            "vocab_bias": vocabulary.bias.data_ptr(),
            "eps": eps,
        }
        for name, value in values.items():
            self._fixed[name] = value

    def __call__(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        mask: Tensor,
        caches: Sequence[Tensor],
        columns: Tensor,
        slots: slice,
    ) -> Tensor:
        """Scores of all tokens, shape (slots, rows, vocab_size).

        x        : Tensor, shape (slots, rows, width), embeddings of the tokens
        rotation : cosines and sines, each of shape (slots, rows, 1, head_width)
        mask     : Tensor of bool, shape (slots, 1, rows, length)
        caches   : of every layer, shape (2, all slots, kv_heads, all columns, head_width)
        columns  : Tensor of int64, shape (slots, rows): where the keys and values of these tokens go
        slots    : those of the cache that take part
        """
        held = x.float().contiguous().clone(), mask.contiguous(), columns.contiguous()
        count, rows, width = x.shape
        total = count * rows
        qkv = torch.empty(total, self._qkv)
        gathered = torch.empty(total, self._inner)
        logits = torch.empty(count, rows, self._vocabulary.outputs)
        narrow = StoredRows(self._numbers, total, max(width, self._inner))
        wide = StoredRows(self._numbers, total, self._feedforward)
        addresses = np.array([layer.data_ptr() for layer in caches], np.int64)
        cache, *_ = caches
        turns = [turn.float().contiguous() for turn in rotation or ()]
        call = {
            "first_slot": slots.start,
            "slots": count,
            "rows": rows,
            "length": mask.shape[-1],
            "all_slots": cache.shape[1],
            "columns": cache.shape[3],
            "rotary": bool(turns),
            "x": held[0].data_ptr(),
            "mask": held[1].data_ptr(),
            "places": held[2].data_ptr(),
            "qkv": qkv.data_ptr(),
            "gathered": gathered.data_ptr(),
            "logits": logits.data_ptr(),
            "caches": addresses.ctypes.data,
        }
        arguments = self._fixed.copy()
        for name, value in call.items():
            arguments[name] = value
        for name, turn in zip(("cosine", "sine"), turns, strict=False):
            arguments[name] = turn.data_ptr()
        names = ("values", "scales", "corrections")
        for name, address_, wide_address in zip(names, narrow.addresses(), wide.addresses(), strict=True):
            arguments[name], arguments[f"wide_{name}"] = address_, wide_address
        team.run(_step(self._numbers, self._vocab_numbers, cached_numbers(cache.dtype)), arguments.ctypes.data)
        return logits
