"""Sums with weights where they are stored, in float32: what has fewer bits is widened, a strip of outputs at a time.

Whoever shares the weights of a file reads them here, and so does everything whose rows stay in float32.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import carray, njit

from prelim.kernels import GROUP, NF4_BLOCK
from prelim.kernels.dot import BLOCK
from prelim.kernels.instructions import Instructions
from prelim.kernels.rows import address, of_bfloat16
from prelim.kernels.strip import STRIP, strip_dot, strip_rows

MAX_ROWS = 24
"""Rows for which a strip of weights is widened once."""


@njit(inline="always")
def _fp32(weights, first, inputs, count, room):
    stored = carray(address(weights + 4 * first * inputs), (count, inputs), np.float32)
    for i in range(count):
        for j in range(inputs):
            room[i, j] = stored[i, j]


@njit(inline="always")
def _bf16(weights, first, inputs, count, room):
    stored = carray(address(weights + 2 * first * inputs), (count, inputs), np.uint16)
    for i in range(count):
        for j in range(inputs):
            room[i, j] = of_bfloat16(stored[i, j])


@njit(inline="always")
def _int8(weights, first, inputs, count, room):
    """Weights is the address of two others: of the integers and their scales."""
    groups = -(-inputs // GROUP)
    parts = carray(address(weights), (2,), np.int64)
    stored = carray(address(parts[0] + first * inputs), (count, inputs), np.int8)
    scales = carray(address(parts[1] + 2 * first * groups), (count, groups), np.uint16)
    whole = inputs // GROUP
    for i in range(count):
        # A loop of constant length becomes vector code, one that ends early at the last group does not.
        for group in range(whole):
            scale = of_bfloat16(scales[i, group])
            for j in range(GROUP):
                room[i, group * GROUP + j] = np.float32(stored[i, group * GROUP + j]) * scale
        if whole < groups:
            scale = of_bfloat16(scales[i, whole])
            for j in range(whole * GROUP, inputs):
                room[i, j] = np.float32(stored[i, j]) * scale


@njit(inline="always")
def _halves(parts, first, inputs, count, room):
    """What the halves of bytes stand for: the first of the parts has the bytes, the third the values of pairs."""
    stored = carray(address(parts[0] + first * inputs // 2), (count, inputs // 2), np.uint8)
    pairs = carray(address(parts[2]), (256,), np.uint64)
    pair_room = carray(address(room.ctypes.data), (count, inputs // 2), np.uint64)
    for i in range(count):
        for j in range(inputs // 2):
            pair_room[i, j] = pairs[stored[i, j]]


@njit(inline="always")
def _int4(weights, first, inputs, count, room):
    """Weights is the address of three others: of the packed numbers, the scales and the values of pairs of numbers."""
    parts = carray(address(weights), (3,), np.int64)
    scales = carray(address(parts[1] + 2 * (first * inputs // GROUP)), (count, inputs // GROUP), np.uint16)
    _halves(parts, first, inputs, count, room)
    for i in range(count):
        for group in range(inputs // GROUP):
            scale = of_bfloat16(scales[i, group])
            for j in range(GROUP):
                room[i, group * GROUP + j] *= scale


@njit(inline="always")
def _nf4(weights, first, inputs, count, room):
    """Weights is the address of three others: of the packed numbers, the scales and the values of pairs of numbers."""
    parts = carray(address(weights), (3,), np.int64)
    scales = carray(address(parts[1] + 4 * (first * inputs // NF4_BLOCK)), (count, inputs // NF4_BLOCK), np.float32)
    _halves(parts, first, inputs, count, room)
    for i in range(count):
        for group in range(inputs // NF4_BLOCK):
            for j in range(NF4_BLOCK):
                room[i, group * NF4_BLOCK + j] *= scales[i, group]


_WIDEN = {
    "stored_fp32": _fp32,
    "stored_bf16": _bf16,
    "stored_int8": _int8,
    "stored_nf4": _nf4,
    "turned_int4": _int4,
    "turned_int8": _int8,
}

KINDS = tuple(_WIDEN)


@cache
def stored_sums(kind: str, of: Instructions) -> Any:
    """A function for numba, which gives the sums of up to BLOCK outputs for up to MAX_ROWS rows.

    kind : one of KINDS
    """
    widen, most = _WIDEN[kind], strip_rows(of)
    many, three, two, one = (strip_dot(min(rows, most), of) for rows in (most, 3, 2, 1))
    as_it_is = kind == "stored_fp32"

    @njit
    def sums_of(weights, start, wanted, values, scales, corrections, row, rows, sums):
        """Sums of outputs `start` to `start + wanted` for `rows` rows from `row` on, into `sums`, (MAX_ROWS, BLOCK).

        weights             : address of all weights
        values              : shape (all rows, inputs), float32
        scales, corrections : not used
        """
        inputs = values.shape[1]
        room = np.empty((STRIP, inputs), np.float32)
        for strip in range(0, wanted, STRIP):
            count = min(STRIP, wanted - strip)
            at = room.ctypes.data
            if as_it_is and count == STRIP:
                at = weights + 4 * (start + strip) * inputs
            else:
                # Of a strip that is not whole the rest is multiplied too, and nobody reads its sums.
                widen(weights, start + strip, inputs, count, room)
            i = 0
            while i < rows:
                value, out = values.ctypes.data + 4 * (row + i) * inputs, sums.ctypes.data + 4 * (i * BLOCK + strip)
                left = rows - i
                if left >= most:
                    many(at, value, inputs, out, 4 * BLOCK)
                    i += most
                elif left >= 3:
                    three(at, value, inputs, out, 4 * BLOCK)
                    i += 3
                elif left == 2:
                    two(at, value, inputs, out, 4 * BLOCK)
                    i += 2
                else:
                    one(at, value, inputs, out, 4 * BLOCK)
                    i += 1

    return sums_of
