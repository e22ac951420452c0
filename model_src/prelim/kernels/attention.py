"""Attention of single rows, each to its own columns of the KV cache and to nothing else.

A row's sums run over the columns that it may look at, in their order. Neither how many columns the cache has nor who
else is in the batch changes a bit of them.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray, cfunc, from_dtype, njit, types
from torch import Tensor

from prelim.kernels import team
from prelim.kernels.kept import kernel
from prelim.kernels.product import share
from prelim.kernels.rows import FINITE_OR_NOT, SUMS, address, bfloat16, exponential, float32, of_bfloat16

_F = np.float32


@dataclass(frozen=True)
class Cached:
    """The numbers of a KV cache.

    name        : of the numbers
    read, write : to float32, and from it
    dtype       : of those in memory
    """

    name: str
    read: Any
    write: Any
    dtype: Any


_CACHED = {
    torch.float32: Cached("fp32", float32, float32, np.float32),
    torch.bfloat16: Cached("bf16", of_bfloat16, bfloat16, np.uint16),
}


def cached_numbers(dtype: torch.dtype) -> Cached:
    """Those of a cache in float32 or bfloat16."""
    return _CACHED[dtype]


@cache
def gather(cached: Cached) -> Any:
    """A function for numba: attention of the heads of one row that share keys."""
    read = cached.read

    @njit(fastmath=SUMS, error_model="numpy")
    def score(query, key):
        total = _F(0)
        for j in range(query.shape[0]):
            total += query[j] * read(key[j])
        return total

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def weigh(weights, count):
        """Softmax of the first `count` numbers, in place."""
        highest = _F(-np.inf)
        for t in range(count):
            highest = max(highest, weights[t])
        for t in range(count):
            weights[t] = exponential(weights[t] - highest)
        total = _F(0)
        for t in range(count):
            total += weights[t]
        for t in range(count):
            weights[t] = weights[t] / total

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def gather_row(queries, keys, values, mask, room, out):
        """What one row gathers.

        queries, out : shape (heads, head_width)
        keys, values : shape (columns, head_width)
        mask         : shape (length,), where it may look, at one column at least
        room         : two of shape (length,), of int32 and of float32
        """
        heads, width = queries.shape
        scale = _F(1) / np.sqrt(_F(width))
        columns, weights = room
        count = 0
        for t in range(mask.shape[0]):
            if mask[t]:
                columns[count] = t
                count += 1
        for h in range(heads):
            query, gathered = queries[h], out[h]
            for t in range(count):
                weights[t] = score(query, keys[columns[t]]) * scale
            weigh(weights, count)
            for j in range(width):
                gathered[j] = _F(0)
            for t in range(count):
                weight, value = weights[t], values[columns[t]]
                for j in range(width):
                    gathered[j] += weight * read(value[j])

    return gather_row


_TOGETHER = 4
"""Terms that are added to a register's sums between reading and writing them."""

_LANES = 16
"""Numbers that are compared at once."""


@cache
def gather_prefix(cached: Cached) -> Any:
    """A function for numba: attention of all rows of a prefix, by the heads that share keys."""
    read = cached.read

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def score(query, turned, count, weights):
        """Products of a query with the first `count` keys; `turned` has shape (head_width, columns)."""
        width = query.shape[0]
        whole = width - width % _TOGETHER
        for t in range(count):
            weights[t] = _F(0)
        for j in range(0, whole, _TOGETHER):
            a, b, c, d = query[j], query[j + 1], query[j + 2], query[j + 3]
            of_a, of_b, of_c, of_d = turned[j], turned[j + 1], turned[j + 2], turned[j + 3]
            for t in range(count):
                weights[t] = weights[t] + a * of_a[t] + b * of_b[t] + c * of_c[t] + d * of_d[t]
        for j in range(whole, width):
            for t in range(count):
                weights[t] += query[j] * turned[j, t]

    @njit(fastmath=SUMS, error_model="numpy")
    def weigh(weights, count, lanes):
        """Softmax of the first `count` numbers, in place; `lanes` is room."""
        lanes[:] = _F(-np.inf)
        whole = count - count % _LANES
        for t in range(0, whole, _LANES):
            for i in range(_LANES):
                lanes[i] = max(lanes[i], weights[t + i])
        highest = _F(-np.inf)
        for i in range(_LANES):
            highest = max(highest, lanes[i])
        for t in range(whole, count):
            highest = max(highest, weights[t])
        for t in range(count):
            weights[t] = exponential(weights[t] - highest)
        total = _F(0)
        for t in range(count):
            total += weights[t]
        for t in range(count):
            weights[t] = weights[t] / total

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def add(weights, count, values, gathered):
        """The first `count` values, weighted."""
        width = gathered.shape[0]
        whole = count - count % _TOGETHER
        for j in range(width):
            gathered[j] = _F(0)
        for t in range(0, whole, _TOGETHER):
            a, b, c, d = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
            of_a, of_b, of_c, of_d = values[t], values[t + 1], values[t + 2], values[t + 3]
            for j in range(width):
                gathered[j] = (
                    gathered[j] + a * read(of_a[j]) + b * read(of_b[j]) + c * read(of_c[j]) + d * read(of_d[j])
                )
        for t in range(whole, count):
            for j in range(width):
                gathered[j] += weights[t] * read(values[t, j])

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def gather_rows(queries, first, last, keys, values, mask, out):
        """What the heads `first` to `last` (exclusive) of all rows gather, each by itself.

        queries, out : shape (rows, heads, head_width)
        keys, values : shape (columns, head_width)
        mask         : shape (rows, length), where each may look, at one column at least
        """
        rows, _, width = queries.shape
        length = mask.shape[1]
        scale = _F(1) / np.sqrt(_F(width))
        # Keys stand side by side, so that a register holds the scores of several.
        turned, weights = np.empty((width, length), np.float32), np.empty(length, np.float32)
        lanes = np.empty(_LANES, np.float32)
        for t in range(length):
            for j in range(width):
                turned[j, t] = read(keys[t, j])
        for row in range(rows):
            seen, count = mask[row], length
            while not seen[count - 1]:
                count -= 1
            for h in range(first, last):
                score(queries[row, h], turned, count, weights)
                for t in range(count):
                    weights[t] = weights[t] * scale if seen[t] else _F(-np.inf)
                weigh(weights, count, lanes)
                add(weights, count, values, out[row, h])

    return gather_rows


_STRIDES = tuple(f"{name}_{of}" for name in ("key", "value") for of in ("sequence", "head", "column"))
_ARGUMENTS = np.dtype(
    [(name, np.int64) for name in ("sequences", "kv_heads", "together", "rows", "length", "width", "masked")]
    + [(name, np.int64) for name in ("query", "key", "value", "mask", "out", *_STRIDES)]
)


@kernel
def _compiled(cached: Cached) -> Any:
    gather_row, dtype = gather(cached), cached.dtype
    size = np.dtype(dtype).itemsize

    @cfunc(types.void(types.CPointer(from_dtype(_ARGUMENTS))))
    def whole(pointer):
        a = carray(pointer, 1)[0]
        shape = (a.sequences, a.rows, a.kv_heads, a.together, a.width)
        query, out = carray(address(a.query), shape, np.float32), carray(address(a.out), shape, np.float32)
        mask = carray(address(a.mask), (a.sequences, a.rows, a.length), np.bool_)
        room = np.empty(a.length, np.int32), np.empty(a.length, np.float32)
        first, last = share(a.sequences * a.kv_heads)
        for unit in range(first, last):
            sequence, head = unit // a.kv_heads, unit % a.kv_heads
            key = a.key + size * (sequence * a.key_sequence + head * a.key_head)
            value = a.value + size * (sequence * a.value_sequence + head * a.value_head)
            keys = carray(address(key), (a.length, a.key_column), dtype)[:, : a.width]
            values = carray(address(value), (a.length, a.value_column), dtype)[:, : a.width]
            for row in range(a.rows):
                seen = mask[sequence * a.masked, row]
                gather_row(query[sequence, row, head], keys, values, seen, room, out[sequence, row, head])

    return whole


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention, each query by itself.

    query      : Tensor, shape (sequences, heads, queries, head_width)
    key, value : Tensor of float32 or bfloat16, shape (sequences, kv_heads, positions, head_width)
    mask       : Tensor of bool, shape (sequences, 1, queries, positions), True where a query may look; None: everywhere
    returns    : Tensor, of the shape of `query`
    """
    sequences, heads, rows, width = query.shape
    kv_heads, length = key.shape[1:3]
    key, value = (t if t.stride(3) == 1 else t.contiguous() for t in (key, value))
    rows_first = query.transpose(1, 2).float().contiguous()
    seen = torch.ones(rows, length, dtype=torch.bool) if mask is None else mask.contiguous()
    out = torch.empty_like(rows_first)
    sizes = sequences, kv_heads, heads // kv_heads, rows, length, width, mask is not None
    addresses = (tensor.data_ptr() for tensor in (rows_first, key, value, seen, out))
    arguments = np.array((*sizes, *addresses, *key.stride()[:3], *value.stride()[:3]), np.int64)
    team.run(_compiled(cached_numbers(key.dtype)), arguments.ctypes.data)
    return out.transpose(1, 2).to(query.dtype)
