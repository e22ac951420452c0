"""The inner product that decoding spends its time in: a few rows of numbers with a block of weights.

The weights of as many outputs as four registers have lanes (64 with AVX-512, 32 with AVX) stand together as the
processor reads them: for every 32 bits of inputs (four integers of 8 bits, two bfloat16, one float32), four registers,
every output's weights side by side; after every GROUP inputs of integers, the scales of all outputs for these. So a
whole matrix is one stream of memory. Where the instruction multiplies unsigned with signed integers, those of weights
have 128 added. Of four bits, a register holds the weights of eight inputs, those of the second four in the high halves
of its bytes; a table makes integers of 8 bits of them.

An output's sum runs over the inputs in their order, whatever the registers are: for integers and float32 all kinds of
processors give the same bits.

Source: the blocking is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008, for so
few rows that only the weights are too large for the caches. The instructions: `prelim.kernels.multiply_add`.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from prelim.kernels import GROUP
from prelim.kernels.instructions import Instructions
from prelim.kernels.multiply_add import MultiplyAdd, constant, declare, multiply_add

BLOCK = 64
"""Outputs that one call multiplies."""

ITEM_SIZE = {"int4": 1, "int8": 1, "bf16": 2, "fp32": 4}
"""Bytes of a number of a row."""

WEIGHT_BITS = {"int4": 4, "int8": 8, "bf16": 16, "fp32": 32}
"""Bits of a weight."""

SCALE_SIZE = {"int4": 2, "int8": 2, "bf16": 0, "fp32": 0}
"""Bytes of the scale that GROUP weights of an output share."""

_MOST_ROWS = {
    32: {"int4": 3, "int8": 3, "bf16": 6, "widened bf16": 4, "fp32": 6},
    16: {"int4": 3, "int8": 3, "widened bf16": 2, "fp32": 3},
}
_REGISTERS = 4
"""Registers of weights that are multiplied with the same 32 bits of a row."""

_LINE = 64
_UNROLL = 4
_AHEAD = 4096
"""Bytes by which weights are fetched ahead of the rows that wait for them; by itself the processor fetches too few."""

_PART_BYTES = 1 << 14

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_POINTER = ir.PointerType()


class Kind(Enum):
    """Kinds of products; the number of those that fetch as many weights ahead as one of them reads.

    FIRST : of rows that wait for weights from memory
    NEXT  : of the rows after them, while the next weights come
    PART  : of many rows with a part of the inputs, whose weights are in a cache: they are added to the sums
    """

    FIRST = 1
    NEXT = 2
    PART = 8


def outputs_together(instructions: Instructions) -> int:
    """Outputs whose weights stand together."""
    return _REGISTERS * instructions.lanes


def part_groups(numbers: str, instructions: Instructions) -> int:
    """Times GROUP inputs of a part of the inputs: 16 KiB of weights, for two threads may share the first cache."""
    return _PART_BYTES * 8 // (GROUP * BLOCK * WEIGHT_BITS[numbers])


def max_rows(numbers: str, instructions: Instructions) -> int:
    """Rows that one call multiplies: the sums of more, and what they are computed from, would not fit into registers.

    Integers have two sums, of which those of whole rows may wait in memory until a group ends.
    """
    widened = "widened " * (numbers == "bf16" and instructions.bfloat16 == "widened")
    return _MOST_ROWS[instructions.registers][widened + numbers]


_AT_ONCE = 2**24
"""Weights that are packed at once: what is made of them on the way is several times as large."""


def pack(weight: Tensor, scale: Tensor | None, instructions: Instructions) -> Tensor:
    """Weights as they are read here, those of missing outputs of the last block zero.

    weight  : Tensor of int8, bfloat16 or float32, shape (outputs, inputs), inputs a multiple of GROUP; of four bits two
              in one of uint8, the first in its high half: shape (outputs, inputs / 2)
    scale   : Tensor of bfloat16, shape (outputs, inputs / GROUP), of integers only
    returns : Tensor of uint8, one-dimensional
    """
    rows = max(_AT_ONCE // weight.shape[1] // BLOCK, 1) * BLOCK
    if len(weight) <= rows:
        return _pack_blocks(weight, scale, instructions)
    packed, end = torch.empty(0, dtype=torch.uint8), 0
    for start in range(0, len(weight), rows):
        scales = None if scale is None else scale[start : start + rows]
        part = _pack_blocks(weight[start : start + rows], scales, instructions)
        if not start:
            packed = part.new_empty(len(part) * BLOCK // rows * -(-len(weight) // BLOCK))
        packed[end : end + len(part)] = part
        end += len(part)
    return packed


def _pack_blocks(weight: Tensor, scale: Tensor | None, instructions: Instructions) -> Tensor:
    """`pack` for some outputs, all at once."""
    missing, lanes = -len(weight) % BLOCK, instructions.lanes
    padded = torch.nn.functional.pad(weight, (0, 0, 0, missing))
    if weight.dtype == torch.uint8:
        packed = _pack_four_bits(padded, lanes)
    else:
        together = 4 // weight.element_size()
        blocks = padded.view(-1, _REGISTERS, lanes, weight.shape[1] // together, together).permute(0, 3, 1, 2, 4)
        packed = blocks.contiguous().view(torch.uint8)
    if scale is None:
        return packed.flatten()
    if weight.dtype == torch.int8 and multiply_add("int8", instructions).unsigned:
        # Adding 128 to a signed byte flips its highest bit.
        packed.bitwise_xor_(0x80)
    scales = torch.nn.functional.pad(scale, (0, 0, 0, missing)).view(-1, _REGISTERS * lanes, scale.shape[1])
    groups = packed.view(len(scales), scale.shape[1], -1)
    return torch.cat([groups, scales.transpose(1, 2).contiguous().view(torch.uint8)], dim=2).flatten()


def _pack_four_bits(weight: Tensor, lanes: int) -> Tensor:
    """Halves of bytes as registers: of every eight inputs the first four in low halves."""
    apart = torch.stack([weight >> 4, weight & 15], dim=2)
    first, second = apart.view(-1, _REGISTERS, lanes, weight.shape[1] // 4, 2, 4).permute(4, 0, 3, 1, 2, 5)
    return (first | second << 4).contiguous()


def _spread(b: Any, value: Any, vector: Any) -> Any:
    """A vector of one value."""
    nothing = ir.Constant(vector, ir.Undefined)
    first = b.insert_element(nothing, value, _I32(0))
    return b.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count))


def _at(b: Any, pointer: Any, offset: Any) -> Any:
    return b.gep(pointer, [offset], source_etype=_I8)


def _bfloats(b: Any, pointer: Any, register: int, how: MultiplyAdd) -> Any:
    """A register of float32 from bfloat16 in memory."""
    size = 2 * how.lanes
    bits = b.load(_at(b, pointer, _I64(register * size)), typ=ir.VectorType(_I16, how.lanes), align=size)
    return b.bitcast(b.shl(b.zext(bits, how.ints), constant(how.ints, 16)), how.floats)


def dot_function(module: Any, numbers: str, instructions: Instructions, rows: int, kind: Kind) -> Any:
    """The function for so many rows in the LLVM module, written at its first call.

    Arguments: weights of the outputs of four registers, or of some of their inputs; the rows' numbers that they are
    multiplied with; inputs a row; groups of the weights; the rows' scales and corrections of these groups (of integers
    only); where the sums of each row go, every BLOCK numbers; the first of the weights that are wanted next.
    """
    name = f"prelim_dot_{instructions.name}_{numbers}_{rows}_{kind.name}"
    if name in module.globals:
        return module.globals[name]
    signature = ir.FunctionType(ir.VoidType(), [_POINTER, _POINTER, _I64, _I64, *[_POINTER] * 4])
    function = ir.Function(module, signature, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    weights, values, inputs, groups, scales, corrections, sums, wanted_next = function.args
    integers, how = SCALE_SIZE[numbers] > 0, multiply_add(numbers, instructions)
    size = 4 * how.lanes
    # Registers of weights, and cache lines of them, that one pass of the loop reads.
    registers = _UNROLL // how.steps * _REGISTERS
    lines = registers * size // _LINE
    lines_ahead = lines // kind.value
    entry, group_block, input_block, group_end, end = (
        function.append_basic_block(name) for name in ("entry", "group", "input", "group_end", "end")
    )
    cells = [(row, register) for row in range(rows) for register in range(_REGISTERS)]
    b = ir.IRBuilder(entry)
    prefetch = declare(b, "llvm.prefetch.p0", ir.VoidType(), _POINTER, _I32, _I32, _I32)
    row_bytes, row_groups = b.mul(inputs, _I64(ITEM_SIZE[numbers])), b.udiv(inputs, _I64(GROUP))
    # Floating-point numbers are a single group.
    group_bytes = _I64(GROUP) if integers else b.mul(groups, _I64(GROUP * ITEM_SIZE[numbers]))
    sums_at = {cell: _at(b, sums, _I64((cell[0] * BLOCK + cell[1] * how.lanes) * 4)) for cell in cells}
    before = dict.fromkeys(cells, constant(how.floats, 0.0))
    if kind is Kind.PART:
        before = {cell: b.load(place, typ=how.floats, align=4) for cell, place in sums_at.items()}
    b.branch(group_block)

    # for every group
    b.position_at_end(group_block)
    group, weight, value, fetched = b.phi(_I64), b.phi(_POINTER), b.phi(_POINTER), b.phi(_POINTER)
    total = {cell: b.phi(how.floats) for cell in cells}
    group.add_incoming(_I64(0), entry)
    weight.add_incoming(weights, entry)
    value.add_incoming(values, entry)
    fetched.add_incoming(wanted_next, entry)
    for cell in cells:
        total[cell].add_incoming(before[cell], entry)
    place = [b.mul(b.add(group, b.mul(row_groups, _I64(row))), _I64(4)) for row in range(rows)]
    start = dict.fromkeys(cells, constant(how.sums, 0)) if integers else before
    if how.unsigned:
        corrected = [_spread(b, b.load(_at(b, corrections, place[row]), typ=_I32), how.ints) for row in range(rows)]
        start = {cell: corrected[cell[0]] for cell in cells}
    b.branch(input_block)

    # for every 128 bits of its inputs
    b.position_at_end(input_block)
    done, weight_in, value_in, fetch = b.phi(_I64), b.phi(_POINTER), b.phi(_POINTER), b.phi(_POINTER)
    partial = {cell: b.phi(how.sums) for cell in cells}
    summed = dict(partial)
    if kind is not Kind.FIRST:
        for line in range(lines_ahead):
            b.call(prefetch, [_at(b, fetch, _I64(line * _LINE)), _I32(0), _I32(2), _I32(1)])
    else:
        for line in range(lines):
            b.call(prefetch, [_at(b, weight_in, _I64(_AHEAD + line * _LINE)), _I32(0), _I32(3), _I32(1)])
    for first in range(0, registers, _REGISTERS):
        steps = range(first // _REGISTERS * how.steps, (first // _REGISTERS + 1) * how.steps)
        offset = {
            (row, step): b.add(b.mul(row_bytes, _I64(row)), _I64(4 * step)) for row in range(rows) for step in steps
        }
        bits = {place: b.load(_at(b, value_in, at), typ=_I32, align=4) for place, at in offset.items()}
        same = {place: how.row(b, _spread(b, one, how.ints)) for place, one in bits.items()}
        for register in range(_REGISTERS):
            read = b.load(_at(b, weight_in, _I64((first + register) * size)), typ=how.ints, align=size)
            for step, weights_of in zip(steps, how.weights(b, read), strict=True):
                for row in range(rows):
                    cell = row, register
                    summed[cell] = how.add(b, summed[cell], weights_of, same[row, step])
    next_done = b.add(done, _I64(4 * _UNROLL))
    next_weight = _at(b, weight_in, _I64(registers * size))
    next_value = _at(b, value_in, _I64(4 * _UNROLL))
    next_fetch = _at(b, fetch, _I64(lines_ahead * _LINE))
    for phi, first_value, following in (
        (done, _I64(0), next_done),
        (weight_in, weight, next_weight),
        (value_in, value, next_value),
        (fetch, fetched, next_fetch),
        *((partial[cell], start[cell], summed[cell]) for cell in cells),
    ):
        phi.add_incoming(first_value, group_block)
        phi.add_incoming(following, input_block)
    b.cbranch(b.icmp_signed("<", next_done, group_bytes), input_block, group_end)

    # the group's sums in float32
    b.position_at_end(group_end)
    added, after = summed, next_weight
    if integers:
        scale = [_spread(b, b.load(_at(b, scales, place[row]), typ=_F32), how.floats) for row in range(rows)]
        of_weights = [_bfloats(b, next_weight, register, how) for register in range(_REGISTERS)]
        unit = {(row, register): b.fmul(scale[row], of_weights[register]) for row, register in cells}
        added = {cell: how.fma(b, b.sitofp(summed[cell], how.floats), unit[cell], total[cell]) for cell in cells}
        after = _at(b, next_weight, _I64(_REGISTERS * how.lanes * SCALE_SIZE[numbers]))
    next_group = b.add(group, _I64(1))
    group.add_incoming(next_group, group_end)
    weight.add_incoming(after, group_end)
    value.add_incoming(next_value, group_end)
    fetched.add_incoming(next_fetch, group_end)
    for cell in cells:
        total[cell].add_incoming(added[cell], group_end)
    b.cbranch(b.icmp_signed("<", next_group, groups if integers else _I64(1)), group_block, end)

    b.position_at_end(end)
    for cell in cells:
        b.store(added[cell], sums_at[cell], align=4)
    b.ret_void()
    return function


def call_dot(b: Any, numbers: str, instructions: Instructions, rows: int, kind: Kind, arguments: Sequence[Any]) -> None:
    """Multiply a whole BLOCK, or some of its inputs: the arguments of `dot_function`, of BLOCK outputs."""
    weights, values, inputs, groups, scales, corrections, sums, wanted_next = arguments
    function = dot_function(b.module, numbers, instructions, rows, kind)
    together = outputs_together(instructions)
    size = b.add(
        b.mul(inputs, _I64(together * WEIGHT_BITS[numbers] // 8)),
        b.mul(b.udiv(inputs, _I64(GROUP)), _I64(together * SCALE_SIZE[numbers])),
    )
    for part in range(BLOCK // together):
        of_part = b.mul(size, _I64(part))
        wanted = _at(b, wanted_next, of_part if kind is Kind.PART else b.mul(b.udiv(size, _I64(2)), _I64(part)))
        to = _at(b, sums, _I64(part * together * 4))
        b.call(function, [_at(b, weights, of_part), values, inputs, groups, scales, corrections, to, wanted])


def dot(numbers: str, instructions: Instructions, rows: int, kind: Kind) -> Any:
    """A function for numba: `call_dot` for these numbers and so many rows, addresses as int64."""

    @intrinsic
    def multiply(
        context: Any,
        weights: Any,
        values: Any,
        inputs: Any,
        groups: Any,
        scales: Any,
        corrections: Any,
        sums: Any,
        wanted_next: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = [builder.inttoptr(arg, _POINTER) for arg in args]
            arguments = [at[0], at[1], args[2], args[3], *at[4:]]
            call_dot(builder, numbers, instructions, rows, kind, arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return multiply
