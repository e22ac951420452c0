"""The phases of a causal language model's step: of each, every thread works on its share."""

from functools import cache
from typing import Any

import numpy as np
from numba import njit

from prelim.kernels.attention import Cached, gather, gather_prefix
from prelim.kernels.dot import BLOCK
from prelim.kernels.product import STEP_ROWS, Numbers, share
from prelim.kernels.rows import FINITE_OR_NOT, gelu, gelu_tanh, layer_norm, rms_norm, silu
from prelim.kernels.team import thread_number

ACTIVATIONS = ("gelu", "silu", "gelu_tanh")
"""Those that a step has; their places here are their numbers there."""


@njit(fastmath=FINITE_OR_NOT, error_model="numpy")
def norm(x, weights, centered, eps, y):
    """Layer norm, or RMS norm, of x, shape (width,), into y, which may be x; weights and biases are its `weights`."""
    if centered:
        layer_norm(x, weights[0], weights[1], eps, y)
    else:
        rms_norm(x, weights[0], eps, y)


@cache
def normalize(numbers: Numbers) -> Any:
    """A function for numba: rows, normalized and stored as they are multiplied."""
    store = numbers.store

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def normalized(x, norms, which, post, part, post_norms, centered, eps, room, values, scales, corrections):
        """The calling thread's share of the rows, normalized and stored as they are multiplied.

        post : what the part of the layer before gave is in `part`; it is normalized and added first
        """
        first, last = share(x.shape[0])
        for row in range(first, last):
            if post:
                norm(part[row], post_norms[which], centered, eps, room)
                for j in range(x.shape[1]):
                    x[row, j] += room[j]
            norm(x[row], norms[which], centered, eps, room)
            store(room, values[row], scales[row], corrections[row])

    return normalized


@njit
def keep_last(x, part, rows, post):
    """Move the last of each slot's rows, which are so many, to the front; of `part` too, where it is added later."""
    if thread_number() == 0:
        for slot in range(x.shape[0] // rows):
            for j in range(x.shape[1]):
                x[slot, j] = x[(slot + 1) * rows - 1, j]
                if post:
                    part[slot, j] = part[(slot + 1) * rows - 1, j]


@njit(fastmath=FINITE_OR_NOT, error_model="numpy")
def _finish(sums, bias, start):
    for j in range(BLOCK):
        sums[j] += bias[start + j]


@njit(fastmath=FINITE_OR_NOT, error_model="numpy")
def _apply(activation, x):
    """The activation, in place; a loop of its own for each, or none becomes vector code."""
    if activation == 1:
        for j in range(BLOCK):
            x[j] = silu(x[j])
    elif activation == 2:
        for j in range(BLOCK):
            x[j] = gelu_tanh(x[j])
    else:
        for j in range(BLOCK):
            x[j] = gelu(x[j])


@cache
def activate(numbers: Numbers) -> Any:
    """A function for numba: the first half of the feed-forward, activated and stored as it is multiplied."""
    store, sums_of, max_rows, together = numbers.store, numbers.sums, numbers.max_rows, numbers.together

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def activated(weights, bias, values, scales, corrections, gated, kind, to_values, to_scales, to_corrections):
        """The calling thread's share of the first half of the feed-forward, as the second half reads."""
        rows = values.shape[0]
        width = to_values.shape[1]
        at_once = max_rows if rows <= STEP_ROWS else together
        sums, gates = np.empty((at_once, BLOCK), np.float32), np.empty((at_once, BLOCK), np.float32)
        first, last = share(width // BLOCK)
        for block in range(first, last):
            start = block * BLOCK
            second = start + width if gated else start
            for row in range(0, rows, at_once):
                count = min(at_once, rows - row)
                if gated:
                    sums_of(weights, start, BLOCK, values, scales, corrections, row, count, gates)
                sums_of(weights, second, BLOCK, values, scales, corrections, row, count, sums)
                for i in range(count):
                    _finish(sums[i], bias, second)
                    if gated:
                        _finish(gates[i], bias, start)
                    _apply(kind, gates[i] if gated else sums[i])
                    if gated:
                        for j in range(BLOCK):
                            sums[i, j] *= gates[i, j]
                    store(
                        sums[i],
                        to_values[row + i, start : start + BLOCK],
                        to_scales[row + i, block:],
                        to_corrections[row + i, block:],
                    )

    return activated


@njit(fastmath=FINITE_OR_NOT, error_model="numpy")
def rotate(x, cosine, sine):
    """Rotate a head in place; cosines and sines are the same in both halves of it."""
    half = x.shape[0] // 2
    first, second = x[:half], x[half:]
    for j in range(half):
        a, b = first[j], second[j]
        first[j] = a * cosine[j] - b * sine[j]
        second[j] = b * cosine[j] + a * sine[j]


@cache
def attend(cached: Cached) -> Any:
    """A function for numba: attention of the rows of a slot."""
    write, gather_row, gather_rows = cached.write, gather(cached), gather_prefix(cached)

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def attending(heads, qkv, keys, values, places, mask, head, prefix, room, out):
        """Attention of one head of keys in one slot: every row of the slot, every head of queries that shares the keys.

        qkv          : shape (rows, heads + 2 kv_heads, head_width)
        keys, values : shape (columns, head_width); the rows' own are written at `places`, shape (rows,)
        mask, room   : as in `gather`
        prefix       : the rows are those of a prefix, which are many
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
        if prefix:
            gather_rows(qkv, first, last, keys, values, mask, out)
        else:
            for row in range(rows):
                gather_row(qkv[row, first:last], keys, values, mask[row], room, out[row, first:last])

    return attending
