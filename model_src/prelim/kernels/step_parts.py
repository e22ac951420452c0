"""The phases of a cross-attention decoder's step: of each, every thread works on its share."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import carray, njit

from prelim.kernels import GROUP, team
from prelim.kernels.attention import Cached, gather
from prelim.kernels.dot import BLOCK
from prelim.kernels.product import Numbers, multiply, share
from prelim.kernels.rows import FINITE_OR_NOT, address, copy, gelu, gelu_tanh, layer_norm, relu

_barrier = team.barrier


@dataclass(frozen=True)
class Activation:
    """An activation.

    function : of a number, for numba
    """

    name: str
    function: Any


ACTIVATIONS = {
    "relu": Activation("relu", relu),
    "gelu": Activation("gelu", gelu),
    "gelu_tanh": Activation("gelu_tanh", gelu_tanh),
}
"""Those that a step has."""


@njit
def matrix(at, rows, columns):
    """Numbers at an address, shape (rows, columns)."""
    return carray(address(at), (rows, columns), np.float32)


@njit
def integers(at, count):
    """So many integers at an address."""
    return carray(address(at), (count,), np.int64)


@cache
def part_product(numbers: Numbers) -> Any:
    """A function for numba: rows, stored as they are multiplied, times a matrix."""
    store, dtype, multiplied = numbers.store, numbers.dtype, multiply(numbers)

    @njit
    def as_they_are(rows, values, scales, corrections):
        return rows

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def stored(rows, values, scales, corrections):
        groups = rows.shape[1] // GROUP
        first, last = share(rows.shape[0] * groups)
        for unit in range(first, last):
            row, group = unit // groups, unit % groups
            start, stop = group * GROUP, (group + 1) * GROUP
            store(
                rows[row, start:stop],
                values[row, start:stop],
                scales[row, group:],
                corrections[row, group:],
            )
        _barrier()
        return values

    ready = as_they_are if store is copy else stored

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def product(a, reads, of, to):
        """The product of one matrix.

        reads : address of rows of as many numbers as the matrix has inputs
        of    : weights and bias of the matrix (addresses), its inputs and outputs
        to    : address of what it gives, shape (rows, outputs)
        """
        count, inputs, outputs = a.slots * a.rows, of[2], of[3]
        values = carray(address(a.values), (count, inputs), dtype)
        scales = matrix(a.scales, count, inputs // GROUP)
        corrections = carray(address(a.corrections), (count, inputs // GROUP), np.int32)
        values = ready(matrix(reads, count, inputs), values, scales, corrections)
        bias = carray(address(of[1]), (outputs,), np.float32)
        multiplied(of[0], bias, values, scales, corrections, matrix(to, count, outputs), False)

    return product


@cache
def activate(activation: Activation) -> Any:
    """A function for numba: what the calling thread has computed of a product, activated."""
    function = activation.function

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def activated(a, outputs, to, pitch):
        """Activate what `product` has written to `part`.

        to    : address of rows
        pitch : numbers from one of these rows to the next
        """
        rows = a.slots * a.rows
        x, y = matrix(a.part, rows, outputs), matrix(to, rows, pitch)
        first, last = share(-(-outputs // BLOCK))
        for row in range(rows):
            for j in range(first * BLOCK, min(last * BLOCK, outputs)):
                y[row, j] = function(x[row, j])

    return activated


@cache
def embed(cached: Cached) -> Any:
    """A function for numba: what the first layer reads, of the calling thread's share of the rows."""
    read, write, dtype = cached.read, cached.write, cached.dtype

    # Without liberties, and rounded after each operation, as PyTorch does it.
    @njit(error_model="numpy")
    def embedded(a):
        """The rows `x`; words and positions that no table has become NaN."""
        rows, width = a.slots * a.rows, a.width
        x, norm = matrix(a.x, rows, width), matrix(a.embedding_norms, 2, width)
        words, added = carray(address(a.words), (a.all_words, width), dtype), matrix(a.added, a.max_positions, width)
        word_ids, token_ids = integers(a.word_ids, rows), integers(a.token_ids, rows)
        positions = integers(a.positions, rows)
        first, last = share(rows)
        for row in range(first, last):
            word, position = word_ids[row], positions[row]
            if not (0 <= word < a.all_words and 0 <= position < a.max_positions):
                x[row] = np.float32(np.nan)
                continue
            for j in range(width):
                scaled = read(write(read(words[word, j]) * a.embedding_scale))
                x[row, j] = read(write(scaled + added[position, j]))
            if a.embedding_norm:
                layer_norm(x[row], norm[0], norm[1], a.eps, x[row])
                for j in range(width):
                    x[row, j] = read(write(x[row, j]))
            if token_ids[row] == a.blank:
                x[row] = np.float32(0)

    return embedded


@njit(fastmath=FINITE_OR_NOT, error_model="numpy")
def settle(a, done):
    """Add what a part of a layer gave to the rows `x`, and write what the next part reads to `y`.

    done : parts before, of all layers; what the 0th gave is zero
    """
    rows = a.slots * a.rows
    x, part, y = matrix(a.x, rows, a.width), matrix(a.part, rows, a.width), matrix(a.y, rows, a.width_inputs)
    norm = matrix(a.norms + 8 * a.width * done, 2, a.width)
    rectify = a.feedforward_relu and done % 3 == 0
    first, last = share(rows)
    for row in range(first, last):
        for j in range(a.width):
            x[row, j] += relu(part[row, j]) if rectify else part[row, j]
        if a.pre_norm or done:
            layer_norm(x[row], norm[0], norm[1], a.eps, y[row])
        else:
            for j in range(a.width):
                y[row, j] = x[row, j]
        if not a.pre_norm:
            for j in range(a.width):
                x[row, j] = y[row, j]


@njit(fastmath=FINITE_OR_NOT, error_model="numpy")
def normalize_head(a):
    """The rows `scored` by the norm before the vocabulary's product, where they are."""
    rows = a.slots * a.rows
    x, norm = matrix(a.scored, rows, a.vocab_inputs), matrix(a.head_norms, 2, a.head_hidden)
    first, last = share(rows)
    for row in range(first, last):
        layer_norm(x[row, : a.head_hidden], norm[0], norm[1], a.eps, x[row])


@cache
def attend(cached: Cached) -> Any:
    """A function for numba: attention of the calling thread's share of the heads of all slots."""
    write, dtype, gather_row = cached.write, cached.dtype, gather(cached)

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def attending(a, keys_at, values_at, columns, mask, text):
        """Attention of `qkv` into `gathered`.

        keys_at, values_at : addresses, shape (slots, heads, columns, head_width)
        mask               : shape (rows of all slots, length), of bool, or (1, length) for all of them
        text               : a row's keys and values follow its queries, and are written first
        """
        width, inner = a.head_width, a.heads * a.head_width
        pitch = 3 * inner if text else inner
        shape = (a.first_slot + a.slots, a.heads, columns, width)
        all_keys, all_values = carray(address(keys_at), shape, dtype), carray(address(values_at), shape, dtype)
        count, (masks, length) = a.slots * a.rows, mask.shape
        token_ids, places = integers(a.token_ids, count), integers(a.places, count)
        room = np.empty(length, np.int32), np.empty(length, np.float32)
        first, last = share(a.slots * a.heads)
        for unit in range(first, last):
            slot, head = unit // a.heads, unit % a.heads
            keys, values = all_keys[a.first_slot + slot, head], all_values[a.first_slot + slot, head]
            rows = range(slot * a.rows, (slot + 1) * a.rows)
            if text:
                for row in rows:
                    new = matrix(a.qkv + 4 * (row * pitch + inner + head * width), 1, inner + width)
                    for j in range(width):
                        keys[places[row], j] = write(new[0, j])
                        values[places[row], j] = write(new[0, inner + j])
            for row in rows:
                query = matrix(a.qkv + 4 * (row * pitch + head * width), 1, width)
                if token_ids[row] == a.blank:
                    # Zeros score everything alike.
                    query[:] = np.float32(0)
                out = matrix(a.gathered + 4 * (row * a.inner_inputs + head * width), 1, width)
                gather_row(query, keys, values, mask[row % masks], room, out)

    return attending
