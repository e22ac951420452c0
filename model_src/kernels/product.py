"""Rows times 8-bit weights, on the team of threads."""

import numpy as np
import torch
from numba import carray, cfunc, from_dtype, njit, types
from torch import Tensor

from model_src.kernels import GROUP, team
from model_src.kernels.dot import BLOCK, MAX_ROWS, dot1, dot2, dot3, pack
from model_src.kernels.rows import address, quantise

_barrier, _thread_number, _team_size = team.barrier, team.thread_number, team.team_size


@njit(inline="always")
def share(things):
    """First and last (exclusive) of so many things that the calling thread works on."""
    thread, threads = _thread_number(), _team_size()
    return things * thread // threads, things * (thread + 1) // threads


@njit
def block_sums(weights, values, scales, corrections, row, rows, sums):
    """Sums of BLOCK outputs for `rows` rows from `row` on, into `sums`, shape (MAX_ROWS, BLOCK).

    weights             : address of the block
    values              : int8, shape (all rows, inputs)
    scales, corrections : shape (all rows, inputs / GROUP)
    """
    inputs = values.shape[1]
    groups = inputs // GROUP
    value = values.ctypes.data + row * inputs
    scale = scales.ctypes.data + row * groups * 4
    correction = corrections.ctypes.data + row * groups * 4
    if rows == 3:
        dot3(weights, value, inputs, groups, scale, correction, sums.ctypes.data)
    elif rows == 2:
        dot2(weights, value, inputs, groups, scale, correction, sums.ctypes.data)
    else:
        dot1(weights, value, inputs, groups, scale, correction, sums.ctypes.data)


@njit(fastmath=True)
def multiply(weights, weight_scales, bias, values, scales, corrections, out, add):
    """The calling thread's share of the product, into `out`, shape (rows, outputs), or added to what is there."""
    rows, inputs = values.shape
    outputs = out.shape[1]
    sums = np.empty((MAX_ROWS, BLOCK), np.float32)
    first, last = share((outputs + BLOCK - 1) // BLOCK)
    for block in range(first, last):
        start = block * BLOCK
        width = min(BLOCK, outputs - start)
        for row in range(0, rows, MAX_ROWS):
            count = min(MAX_ROWS, rows - row)
            block_sums(weights + start * inputs, values, scales, corrections, row, count, sums)
            for i in range(count):
                if add:
                    for j in range(width):
                        out[row + i, start + j] += sums[i, j] * weight_scales[start + j] + bias[start + j]
                else:
                    for j in range(width):
                        out[row + i, start + j] = sums[i, j] * weight_scales[start + j] + bias[start + j]


_ARGUMENTS = np.dtype(
    [(name, np.int64) for name in ("rows", "inputs", "outputs", "x", "values", "scales", "corrections")]
    + [(name, np.int64) for name in ("weights", "weight_scales", "bias", "out")]
)


@cfunc(types.void(types.CPointer(from_dtype(_ARGUMENTS))))
def _product(pointer):
    a = carray(pointer, 1)[0]
    groups = a.inputs // GROUP
    x = carray(address(a.x), (a.rows, a.inputs), np.float32)
    values = carray(address(a.values), (a.rows, a.inputs), np.int8)
    scales = carray(address(a.scales), (a.rows, groups), np.float32)
    corrections = carray(address(a.corrections), (a.rows, groups), np.int32)
    first, last = share(a.rows)
    for row in range(first, last):
        quantise(x[row], values[row], scales[row], corrections[row])
    _barrier()
    weight_scales = carray(address(a.weight_scales), (a.outputs,), np.float32)
    bias = carray(address(a.bias), (a.outputs,), np.float32)
    out = carray(address(a.out), (a.rows, a.outputs), np.float32)
    multiply(a.weights, weight_scales, bias, values, scales, corrections, out, False)


class QuantisedRows:
    """Room for rows of integers with their scales and corrections.

    rows, inputs : how many
    """

    def __init__(self, rows: int, inputs: int) -> None:
        self.values = torch.empty(rows, inputs, dtype=torch.int8)
        self.scales = torch.empty(rows, inputs // GROUP)
        self.corrections = torch.empty(rows, inputs // GROUP, dtype=torch.int32)

    def addresses(self) -> tuple[int, int, int]:
        """Of values, scales and corrections."""
        return self.values.data_ptr(), self.scales.data_ptr(), self.corrections.data_ptr()


class Product:
    """A matrix of 8-bit weights by which rows are multiplied; what it reads is rounded to 8 bits, by groups of GROUP.

    weight : Tensor of int8, shape (outputs, inputs); its packed copy is of this process alone
    scale  : Tensor, shape (outputs,)
    bias   : Tensor, shape (outputs,), or None
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        self.outputs, self.inputs = weight.shape
        self.weights = pack(weight)
        self.scale = scale.float().contiguous()
        self.bias = torch.zeros(self.outputs) if bias is None else bias.float().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """The product, shape (..., outputs), for x of float32 and shape (..., inputs)."""
        rows = x.reshape(-1, self.inputs).float().contiguous()
        quantised = QuantisedRows(len(rows), self.inputs)
        out = torch.empty(len(rows), self.outputs)
        of_weights = self.weights.data_ptr(), self.scale.data_ptr(), self.bias.data_ptr()
        sizes = len(rows), self.inputs, self.outputs
        addresses = rows.data_ptr(), *quantised.addresses(), *of_weights, out.data_ptr()
        arguments = np.array((*sizes, *addresses), np.int64)
        team.run(_product, arguments.ctypes.data)
        return out.view(*x.shape[:-1], self.outputs)
