"""Rows times weights, on the team of threads."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import carray, cfunc, from_dtype, njit, types
from torch import Tensor

from prelim.kernels import FOUR_BITS, GROUP, ROWS_TOGETHER, instructions, stored, team
from prelim.kernels.dot import (
    BLOCK,
    ITEM_SIZE,
    SCALE_SIZE,
    WEIGHT_BITS,
    Kind,
    dot,
    max_rows,
    outputs_together,
    pack,
    part_groups,
)
from prelim.kernels.instructions import Instructions
from prelim.kernels.kept import kernel
from prelim.kernels.rows import FINITE_OR_NOT, address, copy, quantize, rotate, round_to_bfloat16
from prelim.kernels.strip import INPUTS

_barrier, _thread_number, _team_size = team.barrier, team.thread_number, team.team_size


@njit(inline="always")
def share(things):
    """First and last (exclusive) of so many things that the calling thread works on."""
    thread, threads = _thread_number(), _team_size()
    return things * thread // threads, things * (thread + 1) // threads


STEP_ROWS = 24
"""Rows up to which memory takes the time of a product, and not arithmetic."""


@dataclass(frozen=True)
class Numbers:
    """How rows are multiplied with weights.

    kind         : one of `prelim.kernels.dot.ITEM_SIZE` or of `prelim.kernels.stored.KINDS`
    dtype        : of one number of a row in memory
    store        : makes them of a row of float32
    max_rows     : that share one reading of the weights in a step
    instructions : what multiplies them
    """

    kind: str
    dtype: Any
    store: Any
    max_rows: int
    instructions: Instructions

    @property
    def name(self) -> str:
        """Tells them from all others."""
        return f"{self.kind} {self.instructions.name}"

    @property
    def item_size(self) -> int:
        """Bytes of a number of a row."""
        return np.dtype(self.dtype).itemsize

    @property
    def packed(self) -> bool:
        """Whether weights are packed for them, which pays for many rows too."""
        return self.kind not in stored.KINDS

    @property
    def together(self) -> int:
        """Rows that share one reading of the weights, of more than STEP_ROWS."""
        return ROWS_TOGETHER if self.packed else self.max_rows

    @property
    def sums(self) -> Any:
        """A function for numba: the sums of up to BLOCK outputs for up to `max_rows` rows, or `together` of many."""
        make = packed_sums if self.packed else stored.stored_sums
        return make(self.kind, self.instructions)


_ROWS = {
    "int4": (np.int8, quantize),
    "int8": (np.int8, quantize),
    "bf16": (np.uint16, round_to_bfloat16),
    "turned_int4": (np.float32, rotate),
    "turned_int8": (np.float32, rotate),
}
"""By kind: the dtype of the numbers of a row, and what makes them; for all other kinds, rows stay as they are."""

_PACKED = {torch.uint8: "int4", torch.int8: "int8", torch.bfloat16: "bf16", torch.float32: "fp32"}
"""By the dtype of the weights, which has two of four bits in one of uint8; a row is rounded to what they are."""

_STORED = {
    torch.float32: "stored_fp32",
    torch.bfloat16: "stored_bf16",
    torch.int8: "stored_int8",
    torch.uint8: "stored_nf4",
}
"""By the dtype of the weights; rows stay as they are."""

_TURNED = {torch.uint8: "turned_int4", torch.int8: "turned_int8"}
"""By the dtype of the weights, as in _PACKED; rows are rotated, and not rounded."""


@cache
def _numbers(kind: str, of: Instructions) -> Numbers:
    dtype, store = _ROWS.get(kind, (np.float32, copy))
    return Numbers(kind, dtype, store, stored.MAX_ROWS if kind in stored.KINDS else max_rows(kind, of), of)


def numbers_of(kind: str) -> Numbers:
    """Those of a kind, by the instructions that are chosen for this processor."""
    chosen = instructions.chosen()
    if chosen is None:
        raise RuntimeError(instructions.why_none())
    return _numbers(kind, chosen)


@cache
def packed_sums(kind: str, of: Instructions) -> Any:
    """`Numbers.sums` for weights that `prelim.kernels.dot.pack` has laid out."""
    size, weight_bits, scale_size = ITEM_SIZE[kind], WEIGHT_BITS[kind], SCALE_SIZE[kind]
    most = max_rows(kind, of)
    alone = {rows: dot(kind, of, rows, Kind.FIRST) for rows in range(1, most + 1)}
    later, many = dot(kind, of, most, Kind.NEXT), dot(kind, of, most, Kind.PART)
    part, together, fetched = part_groups(kind, of), outputs_together(of), Kind.PART.value
    # Of a group in what stands together.
    group_bytes = together * (GROUP * weight_bits // 8 + scale_size)
    dot1, dot2, dot3, dot4, dot5, dot6 = (alone.get(rows, alone[1]) for rows in range(1, 7))
    more_than_three = most > 3

    @njit
    def of_few(weights, block, values, scales, corrections, row, rows, sums):
        """Of up to `most` rows; `weights` is the address of the block, which has so many bytes."""
        inputs = values.shape[1]
        groups = inputs // GROUP
        value = values.ctypes.data + row * inputs * size
        scale = scales.ctypes.data + row * groups * 4
        correction = corrections.ctypes.data + row * groups * 4
        out = sums.ctypes.data
        # The first rows wait for the block to come from memory; with the next ones, the next block comes.
        following = weights + block + (row // most - 1) * (block // 2)
        if rows == most and 0 < row <= 2 * most:
            later(weights, value, inputs, groups, scale, correction, out, following)
        elif rows == 1:
            dot1(weights, value, inputs, groups, scale, correction, out, following)
        elif rows == 2:
            dot2(weights, value, inputs, groups, scale, correction, out, following)
        elif rows == 3:
            dot3(weights, value, inputs, groups, scale, correction, out, following)
        elif more_than_three:
            if rows == 4:
                dot4(weights, value, inputs, groups, scale, correction, out, following)
            elif rows == 5:
                dot5(weights, value, inputs, groups, scale, correction, out, following)
            else:
                dot6(weights, value, inputs, groups, scale, correction, out, following)

    @njit
    def of_many(weights, values, scales, corrections, row, rows, sums):
        """The same of so many times `most` rows, some groups at a time."""
        inputs = values.shape[1]
        groups = inputs // GROUP
        sums[:rows] = np.float32(0)
        for first in range(0, groups, part):
            count = min(part, groups - first)
            following = weights + (first + count) * group_bytes
            for i in range(0, rows, most):
                place = (row + i) * groups + first
                wanted = following + i // most % fetched * (count * group_bytes // fetched)
                many(
                    *(weights + first * group_bytes, values.ctypes.data + place * GROUP * size, inputs, count),
                    *(
                        scales.ctypes.data + 4 * place,
                        corrections.ctypes.data + 4 * place,
                        sums[i:].ctypes.data,
                        wanted,
                    ),
                )

    @njit
    def sums_of(weights, start, wanted, values, scales, corrections, row, rows, sums):
        """Sums of outputs `start` to `start + BLOCK` for `rows` rows from `row` on, into `sums`, (rows, BLOCK).

        weights             : address of all weights
        start               : a multiple of BLOCK
        values              : shape (all rows, inputs)
        scales, corrections : shape (all rows, inputs / GROUP), of integers
        """
        inputs = values.shape[1]
        block = BLOCK * (inputs * weight_bits // 8 + inputs // GROUP * scale_size)
        weights += start // BLOCK * block
        whole = 0
        if rows > most:
            whole = rows - rows % most
            of_many(weights, values, scales, corrections, row, whole, sums)
        for i in range(whole, rows, most):
            of_few(weights, block, values, scales, corrections, row + i, min(most, rows - i), sums[i:])

    return sums_of


@cache
def multiply(numbers: Numbers) -> Any:
    """A function for numba, which multiplies rows with a matrix."""
    max_rows, together, sums_of = numbers.max_rows, numbers.together, numbers.sums

    @njit(fastmath=FINITE_OR_NOT, error_model="numpy")
    def product(weights, bias, values, scales, corrections, out, add):
        """The calling thread's share of the product, into `out`, shape (rows, outputs), or added to what is there."""
        rows = values.shape[0]
        outputs = out.shape[1]
        at_once = max_rows if rows <= STEP_ROWS else together
        sums = np.empty((at_once, BLOCK), np.float32)
        first, last = share(-(-outputs // BLOCK))
        for block in range(first, last):
            start = block * BLOCK
            width = min(BLOCK, outputs - start)
            for row in range(0, rows, at_once):
                count = min(at_once, rows - row)
                sums_of(weights, start, width, values, scales, corrections, row, count, sums)
                for i in range(count):
                    if add:
                        for j in range(width):
                            out[row + i, start + j] += sums[i, j] + bias[start + j]
                    else:
                        for j in range(width):
                            out[row + i, start + j] = sums[i, j] + bias[start + j]

    return product


_ARGUMENTS = np.dtype(
    [(name, np.int64) for name in ("rows", "inputs", "outputs", "x", "values", "scales", "corrections")]
    + [(name, np.int64) for name in ("weights", "bias", "out")]
)


@kernel
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
        bias = carray(address(a.bias), (a.outputs,), np.float32)
        out = carray(address(a.out), (a.rows, a.outputs), np.float32)
        product(a.weights, bias, values, scales, corrections, out, False)

    return whole


class StoredRows:
    """Room for rows of numbers, with scales and corrections where they are integers.

    rows, inputs : how many
    """

    def __init__(self, numbers: Numbers, rows: int, inputs: int) -> None:
        groups = inputs // GROUP if numbers.dtype == np.int8 else 0
        self._room = (
            torch.empty(rows * inputs * numbers.item_size, dtype=torch.uint8),
            torch.empty(rows * groups),
            torch.empty(rows * groups, dtype=torch.int32),
        )

    def addresses(self) -> tuple[int, ...]:
        """Of values, scales and corrections."""
        return tuple(room.data_ptr() for room in self._room)


class Product:
    """A matrix by which rows are multiplied; each row's product is the same, bit for bit, whatever the other rows are.

    numbers : what rows are turned into
    weights : address of the weights, as `numbers` reads them
    held    : what is at that address
    bias    : Tensor, shape (outputs,), or None
    """

    def __init__(
        self,
        numbers: Numbers,
        shape: tuple[int, int],
        weights: int,
        held: Sequence[Any],
        bias: Tensor | None,
    ) -> None:
        self.numbers, self.weights, self._held = numbers, weights, held
        self.outputs, self.inputs = shape
        self.bias = torch.zeros(self.outputs) if bias is None else bias.float().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """The product, shape (..., outputs), for x of shape (..., inputs)."""
        # Inputs that `stored_product` has added are zero.
        rows = _fill(x.reshape(-1, x.shape[-1]).float(), self.inputs)
        room = StoredRows(self.numbers, len(rows), self.inputs)
        out = torch.empty(len(rows), self.outputs)
        sizes = len(rows), self.inputs, self.outputs
        of_weights = self.weights, self.bias.data_ptr()
        arguments = np.array((*sizes, rows.data_ptr(), *room.addresses(), *of_weights, out.data_ptr()), np.int64)
        team.run(_compiled(self.numbers), arguments.ctypes.data)
        return out.view(*x.shape[:-1], self.outputs).to(x.dtype)


def packed_product(weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Product:
    """The product with a packed copy of the weights, which is of this process alone; rows are rounded to their dtype.

    weight : Tensor of int8, bfloat16 or float32, shape (outputs, inputs), or of uint8, as in `prelim.kernels.dot.pack`
    scale  : Tensor of numbers of bfloat16, shape (outputs, inputs / GROUP), of integers only
    """
    numbers = numbers_of(_PACKED[weight.dtype])
    packed = pack(weight, None if scale is None else scale.bfloat16(), numbers.instructions)
    return Product(numbers, _shape(weight), packed.data_ptr(), (packed,), bias)


def stored_product(weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Product:
    """The product with the weights where they are; where rows of them do not fill registers, with a copy.

    weight : Tensor of int8, bfloat16 or float32, shape (outputs, inputs)
    scale  : Tensor of numbers of bfloat16, shape (outputs, inputs / GROUP, rounded up), of integers only
    """
    weight = _fill(weight, -(-weight.shape[1] // INPUTS) * INPUTS)
    shape = (weight.shape[0], weight.shape[1])
    numbers = numbers_of(_STORED[weight.dtype])
    if scale is None:
        return Product(numbers, shape, weight.data_ptr(), (weight,), bias)
    return _of_parts(numbers, shape, (weight, scale.bfloat16().contiguous()), bias)


def turned_product(weight: Tensor, scale: Tensor, bias: Tensor | None) -> Product:
    """The product of rotated rows with the weights where they are.

    weight : Tensor of int8, shape (outputs, inputs), inputs a multiple of GROUP, or of uint8, as in
             `prelim.kernels.dot.pack`
    scale  : Tensor of numbers of bfloat16, shape (outputs, inputs / GROUP)
    """
    held: tuple[Tensor, ...] = weight.contiguous(), scale.bfloat16().contiguous()
    if weight.dtype == torch.uint8:
        held = *held, _pairs(torch.tensor(FOUR_BITS))
    return _of_parts(numbers_of(_TURNED[weight.dtype]), _shape(weight), held, bias)


def _fill(rows: Tensor, inputs: int) -> Tensor:
    """The rows with zeros up to so many inputs, contiguous. `pad` would copy also where nothing is added."""
    missing = inputs - rows.shape[1]
    return torch.nn.functional.pad(rows, (0, missing)).contiguous() if missing else rows.contiguous()


def _shape(weight: Tensor) -> tuple[int, int]:
    """Outputs and inputs."""
    return weight.shape[0], weight.shape[1] * (2 if weight.dtype == torch.uint8 else 1)


def _pairs(code: Tensor) -> Tensor:
    """What the two halves of every byte stand for, the first in its high half: shape (256, 2)."""
    byte = torch.arange(256)
    return torch.stack([code[byte >> 4], code[byte & 15]], dim=1).float().contiguous()


def _of_parts(numbers: Numbers, shape: tuple[int, int], held: Sequence[Tensor], bias: Tensor | None) -> Product:
    """The product with weights that lie in several places."""
    parts = np.array([tensor.data_ptr() for tensor in held], np.int64)
    return Product(numbers, shape, parts.ctypes.data, (*held, parts), bias)


def nf4_product(packed: Tensor, absmax: Tensor, code: Tensor, shape: tuple[int, int], bias: Tensor | None) -> Product:
    """The product with weights of four bits where they are.

    packed : Tensor of uint8, two numbers a byte, the first in its high half
    absmax : Tensor of float32, the scale of every NF4_BLOCK numbers
    code   : Tensor, shape (16,), what the numbers stand for
    shape  : outputs and inputs, these a multiple of NF4_BLOCK
    """
    held = packed.contiguous(), absmax.contiguous(), _pairs(code)
    return _of_parts(numbers_of(_STORED[torch.uint8]), shape, held, bias)
