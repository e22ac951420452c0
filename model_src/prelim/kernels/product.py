"""Rows times weights, on the team of threads."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray, cfunc, from_dtype, njit, types
from torch import Tensor

from prelim.kernels import GROUP, team
from prelim.kernels.dot import BLOCK, ITEM_SIZE, MAX_ROWS, dot, pack
from prelim.kernels.rows import address, bfloat16, copy, float32, of_bfloat16, quantise, round_to_bfloat16

_barrier, _thread_number, _team_size = team.barrier, team.thread_number, team.team_size


@njit(inline="always")
def share(things):
    """First and last (exclusive) of so many things that the calling thread works on."""
    thread, threads = _thread_number(), _team_size()
    return things * thread // threads, things * (thread + 1) // threads


@dataclass(frozen=True)
class Numbers:
    """What rows are turned into before they are multiplied.

    name      : that of `prelim.kernels.dot`
    dtype     : of one number in memory
    store     : makes them of a row of float32
    read, write : of the KV cache's numbers, and to them
    cached    : dtype of those in memory
    """

    name: str
    dtype: Any
    store: Any
    read: Any = float32
    write: Any = float32
    cached: Any = np.float32


NUMBERS = {
    torch.int8: Numbers("int8", np.int8, quantise),
    torch.bfloat16: Numbers("bf16", np.uint16, round_to_bfloat16, of_bfloat16, bfloat16, np.uint16),
    torch.float32: Numbers("fp32", np.float32, copy),
}
"""By the dtype of the weights."""


@cache
def block_sums(numbers: Numbers) -> Any:
    """A function for numba, which gives the sums of BLOCK outputs for a few rows."""
    size = ITEM_SIZE[numbers.name]
    integers = numbers.name == "int8"
    max_rows = MAX_ROWS[numbers.name]
    alone = {rows: dot(numbers.name, rows, ahead=False) for rows in range(1, max_rows + 1)}
    later = dot(numbers.name, max_rows, ahead=True)
    dot1, dot2, dot3 = alone[1], alone[2], alone[3]
    dot4, dot5, dot6 = (alone.get(rows, dot1) for rows in (4, 5, 6))

    @njit
    def sums_of(weights, values, scales, corrections, row, rows, sums):
        """Sums for `rows` rows from `row` on, into `sums`, shape (MAX_ROWS, BLOCK).

        weights             : address of the block
        values              : shape (all rows, inputs)
        scales, corrections : shape (all rows, inputs / GROUP), of integers
        """
        inputs = values.shape[1]
        groups = inputs // GROUP
        value = values.ctypes.data + row * inputs * size
        scale = scales.ctypes.data + row * groups * 4
        correction = corrections.ctypes.data + row * groups * 4
        out = sums.ctypes.data
        block = BLOCK * inputs * size
        # The first rows wait for the block to come from memory; with the next ones, the next block comes.
        following = weights + block + (row // max_rows - 1) * (block // 2)
        if rows == max_rows and 0 < row <= 2 * max_rows:
            later(weights, value, inputs, groups, scale, correction, out, following)
        elif rows == 1:
            dot1(weights, value, inputs, groups, scale, correction, out, following)
        elif rows == 2:
            dot2(weights, value, inputs, groups, scale, correction, out, following)
        elif rows == 3:
            dot3(weights, value, inputs, groups, scale, correction, out, following)
        elif not integers:
            if rows == 4:
                dot4(weights, value, inputs, groups, scale, correction, out, following)
            elif rows == 5:
                dot5(weights, value, inputs, groups, scale, correction, out, following)
            else:
                dot6(weights, value, inputs, groups, scale, correction, out, following)

    return sums_of


@cache
def multiply(numbers: Numbers) -> Any:
    """A function for numba, which multiplies rows with a matrix."""
    size, max_rows, sums_of = ITEM_SIZE[numbers.name], MAX_ROWS[numbers.name], block_sums(numbers)

    @njit(fastmath=True, error_model="numpy")
    def product(weights, weight_scales, bias, values, scales, corrections, out, add):
        """The calling thread's share of the product, into `out`, shape (rows, outputs), or added to what is there."""
        rows, inputs = values.shape
        outputs = out.shape[1]
        sums = np.empty((max_rows, BLOCK), np.float32)
        first, last = share((outputs + BLOCK - 1) // BLOCK)
        for block in range(first, last):
            start = block * BLOCK
            width = min(BLOCK, outputs - start)
            for row in range(0, rows, max_rows):
                count = min(max_rows, rows - row)
                sums_of(weights + start * inputs * size, values, scales, corrections, row, count, sums)
                for i in range(count):
                    if add:
                        for j in range(width):
                            out[row + i, start + j] += sums[i, j] * weight_scales[start + j] + bias[start + j]
                    else:
                        for j in range(width):
                            out[row + i, start + j] = sums[i, j] * weight_scales[start + j] + bias[start + j]

    return product


_ARGUMENTS = np.dtype(
    [(name, np.int64) for name in ("rows", "inputs", "outputs", "x", "values", "scales", "corrections")]
    + [(name, np.int64) for name in ("weights", "weight_scales", "bias", "out")]
)


@cache
def _compiled(numbers: Numbers) -> Any:
    store, product, dtype = numbers.store, multiply(numbers), numbers.dtype

    @cfunc(types.void(types.CPointer(from_dtype(_ARGUMENTS))))
    def whole(pointer):
        a = carray(pointer, 1)[0]
        groups = a.inputs // GROUP
        x = carray(address(a.x), (a.rows, a.inputs), np.float32)
        values = carray(address(a.values), (a.rows, a.inputs), dtype)
        scales = carray(address(a.scales), (a.rows, groups), np.float32)
        corrections = carray(address(a.corrections), (a.rows, groups), np.int32)
        first, last = share(a.rows)
        for row in range(first, last):
            store(x[row], values[row], scales[row], corrections[row])
        _barrier()
        weight_scales = carray(address(a.weight_scales), (a.outputs,), np.float32)
        bias = carray(address(a.bias), (a.outputs,), np.float32)
        out = carray(address(a.out), (a.rows, a.outputs), np.float32)
        product(a.weights, weight_scales, bias, values, scales, corrections, out, False)

    return whole


class StoredRows:
    """Room for rows of numbers, with scales and corrections where they are integers.

    rows, inputs : how many
    """

    def __init__(self, numbers: Numbers, rows: int, inputs: int) -> None:
        groups = inputs // GROUP if numbers.name == "int8" else 0
        self._room = (
            torch.empty(rows * inputs * ITEM_SIZE[numbers.name], dtype=torch.uint8),
            torch.empty(rows * groups),
            torch.empty(rows * groups, dtype=torch.int32),
        )

    def addresses(self) -> tuple[int, ...]:
        """Of values, scales and corrections."""
        return tuple(room.data_ptr() for room in self._room)


class Product:
    """A matrix by which rows are multiplied, in the numbers of its weights: a row is rounded to bfloat16, or to 8 bits.

    weight : Tensor of int8, bfloat16 or float32, shape (outputs, inputs); its packed copy is of this process alone
    scale  : Tensor, shape (outputs,), or None for weights that have none
    bias   : Tensor, shape (outputs,), or None
    """

    def __init__(self, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> None:
        self.numbers = NUMBERS[weight.dtype]
        self.outputs, self.inputs = weight.shape
        self.weights = pack(weight)
        self.scale = torch.ones(self.outputs) if scale is None else scale.float().contiguous()
        self.bias = torch.zeros(self.outputs) if bias is None else bias.float().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """The product, shape (..., outputs), for x of shape (..., inputs)."""
        rows = x.reshape(-1, self.inputs).float().contiguous()
        stored = StoredRows(self.numbers, len(rows), self.inputs)
        out = torch.empty(len(rows), self.outputs)
        of_weights = self.weights.data_ptr(), self.scale.data_ptr(), self.bias.data_ptr()
        sizes = len(rows), self.inputs, self.outputs
        arguments = np.array((*sizes, rows.data_ptr(), *stored.addresses(), *of_weights, out.data_ptr()), np.int64)
        team.run(_compiled(self.numbers), arguments.ctypes.data)
        return out.view(*x.shape[:-1], self.outputs).to(x.dtype)
