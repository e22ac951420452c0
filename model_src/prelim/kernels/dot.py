"""The inner product that decoding spends its time in: a few rows of numbers with a block of weights.

The weights of BLOCK outputs stand together as the processor reads them: for every 32 bits of inputs (four integers of
8 bits, two bfloat16, one float32), four registers of 16 outputs each, every output's weights side by side; after every
GROUP inputs of integers, the scales of all outputs for these. So a whole matrix is one stream of memory. Integers of
weights have 128 added, for the instruction multiplies unsigned with signed ones. Of four bits, a register holds the
weights of eight inputs, those of the second four in the high halves of its bytes; a table makes integers of 8 bits of
them.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, VPDPBUSD, VDPBF16PS, VFMADD; the
blocking is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008, for so few rows
that only the weights are too large for the caches.
"""

from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from prelim.kernels import FOUR_BITS, GROUP

BLOCK = 64
"""Outputs whose weights stand together."""

MAX_ROWS = {"int4": 3, "int8": 3, "bf16": 6, "fp32": 6}
"""Rows that one call multiplies, by the numbers: more would not fit into the processor's 32 registers."""

ITEM_SIZE = {"int4": 1, "int8": 1, "bf16": 2, "fp32": 4}
"""Bytes of a number of a row."""

WEIGHT_BITS = {"int4": 4, "int8": 8, "bf16": 16, "fp32": 32}
"""Bits of a weight."""

SCALE_SIZE = {"int4": 2, "int8": 2, "bf16": 0, "fp32": 0}
"""Bytes of the scale that GROUP weights of an output share."""

_FMA = "llvm.fma.v16f32"
_LANES = 16
_LINE = 4 * _LANES
_REGISTERS = BLOCK // _LANES
_UNROLL = 4
_AHEAD = 4096
"""Bytes by which weights are fetched ahead of the rows that wait for them; by itself the processor fetches too few."""


class _BFloat(ir.HalfType):
    """LLVM's bfloat, which llvmlite has no name for."""

    def __str__(self) -> str:
        return "bfloat"


_BFloat._create_instance()
_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_POINTER = ir.PointerType()
_FLOATS, _INTS, _SHORTS = (ir.VectorType(kind, _LANES) for kind in (_F32, _I32, ir.IntType(16)))
_BYTES, _SHORTS_PAIRED = ir.VectorType(_I8, 4 * _LANES), ir.VectorType(ir.IntType(16), 2 * _LANES)
_OPERANDS = {"int4": _BYTES, "int8": _BYTES, "bf16": ir.VectorType(_BFloat(), 2 * _LANES), "fp32": _FLOATS}
_SUMS = {"int4": _INTS, "int8": _INTS, "bf16": _FLOATS, "fp32": _FLOATS}
_MULTIPLY_BYTES = "llvm.x86.avx512.vpdpbusd.512"
_INSTRUCTIONS = {
    "int4": _MULTIPLY_BYTES,
    "int8": _MULTIPLY_BYTES,
    "bf16": "llvm.x86.avx512bf16.dpbf16ps.512",
    "fp32": _FMA,
}


def pack(weight: Tensor, scale: Tensor | None = None) -> Tensor:
    """Weights as they are read here, those of missing outputs of the last block zero.

    weight  : Tensor of int8, bfloat16 or float32, shape (outputs, inputs), inputs a multiple of GROUP; of four bits two
              in one of uint8, the first in its high half: shape (outputs, inputs / 2)
    scale   : Tensor of bfloat16, shape (outputs, inputs / GROUP), of integers only
    returns : Tensor of uint8, one-dimensional
    """
    missing = -len(weight) % BLOCK
    padded = torch.nn.functional.pad(weight, (0, 0, 0, missing))
    if weight.dtype == torch.uint8:
        packed = _pack_four_bits(padded)
    else:
        together = 4 // weight.element_size()
        blocks = padded.view(-1, _REGISTERS, _LANES, weight.shape[1] // together, together).permute(0, 3, 1, 2, 4)
        packed = blocks.contiguous().view(torch.uint8)
    if scale is None:
        return packed.flatten()
    if weight.dtype == torch.int8:
        # Adding 128 to a signed byte flips its highest bit.
        packed.bitwise_xor_(0x80)
    scales = torch.nn.functional.pad(scale, (0, 0, 0, missing)).view(-1, BLOCK, scale.shape[1])
    groups = packed.view(len(scales), scale.shape[1], -1)
    return torch.cat([groups, scales.transpose(1, 2).contiguous().view(torch.uint8)], dim=2).flatten()


def _pack_four_bits(weight: Tensor) -> Tensor:
    """Halves of bytes as registers: of every eight inputs the first four in low halves."""
    apart = torch.stack([weight >> 4, weight & 15], dim=2)
    first, second = apart.view(-1, _REGISTERS, _LANES, weight.shape[1] // 4, 2, 4).permute(4, 0, 3, 1, 2, 5)
    return (first | second << 4).contiguous()


def _spread(b: Any, value: Any, vector: Any) -> Any:
    """A vector of one value."""
    nothing = ir.Constant(vector, ir.Undefined)
    first = b.insert_element(nothing, value, _I32(0))
    return b.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES))


def _at(b: Any, pointer: Any, offset: Any) -> Any:
    return b.gep(pointer, [offset], source_etype=_I8)


def _bfloats(b: Any, pointer: Any, register: int) -> Any:
    """A register of float32 from bfloat16 in memory."""
    bits = b.load(_at(b, pointer, _I64(register * 2 * _LANES)), typ=_SHORTS, align=2 * _LANES)
    return b.bitcast(b.shl(b.zext(bits, _INTS), ir.Constant(_INTS, [16] * _LANES)), _FLOATS)


def _declare(module: Any, name: str, result: Any, *operands: Any) -> Any:
    return module.declare_intrinsic(name, (), ir.FunctionType(result, operands))


def _widen(b: Any, packed: list[Any]) -> list[list[Any]]:
    """Registers of the low and of the high halves of all bytes, each as the integer of 8 bits that it stands for."""
    look_up = _declare(b.module, "llvm.x86.avx512.pshuf.b.512", _BYTES, _BYTES, _BYTES)
    # The instruction looks up every 16 bytes by themselves.
    table = ir.Constant(_BYTES, [number + 128 for number in FOUR_BITS] * 4)
    low = ir.Constant(_BYTES, [15] * 4 * _LANES)
    four = ir.Constant(_SHORTS_PAIRED, [4] * 2 * _LANES)
    shifted = [b.bitcast(b.lshr(b.bitcast(one, _SHORTS_PAIRED), four), _BYTES) for one in packed]
    return [[b.call(look_up, [table, b.and_(one, low)]) for one in half] for half in (packed, shifted)]


def _dot_function(module: Any, numbers: str, rows: int, ahead: bool) -> Any:
    """The function for so many rows in the LLVM module, written at its first call.

    Arguments: weights of the block; rows of numbers, inputs a row; groups; the rows' scales and corrections of the
    groups, one row after the other (of integers only); where the BLOCK sums of each row go; half a block of weights
    that are wanted next.
    """
    name = f"prelim_dot_{numbers}_{rows}" + "_ahead" * ahead
    if name in module.globals:
        return module.globals[name]
    signature = ir.FunctionType(ir.VoidType(), [_POINTER, _POINTER, _I64, _I64, *[_POINTER] * 4])
    function = ir.Function(module, signature, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    weights, values, inputs, groups, scales, corrections, sums, wanted_next = function.args
    integers = SCALE_SIZE[numbers] > 0
    operand, sum_type = _OPERANDS[numbers], _SUMS[numbers]
    instruction = _declare(module, _INSTRUCTIONS[numbers], sum_type, sum_type, operand, operand)
    prefetch = _declare(module, "llvm.prefetch.p0", ir.VoidType(), _POINTER, _I32, _I32, _I32)
    fma = _declare(module, _FMA, _FLOATS, _FLOATS, _FLOATS, _FLOATS)
    # Steps whose weights one register holds, and cache lines of weights that one pass of the loop reads.
    widened = 2 if numbers == "int4" else 1
    lines = _UNROLL * _REGISTERS // widened
    entry, group_block, input_block, group_end, end = (
        function.append_basic_block(name) for name in ("entry", "group", "input", "group_end", "end")
    )
    cells = [(row, register) for row in range(rows) for register in range(_REGISTERS)]
    b = ir.IRBuilder(entry)
    row_bytes = b.mul(inputs, _I64(ITEM_SIZE[numbers]))
    # A row of floating-point numbers is a single group.
    group_bytes = _I64(GROUP) if integers else row_bytes
    b.branch(group_block)

    # for every group
    b.position_at_end(group_block)
    group, weight, value, fetched = b.phi(_I64), b.phi(_POINTER), b.phi(_POINTER), b.phi(_POINTER)
    total = {cell: b.phi(_FLOATS) for cell in cells}
    group.add_incoming(_I64(0), entry)
    weight.add_incoming(weights, entry)
    value.add_incoming(values, entry)
    fetched.add_incoming(wanted_next, entry)
    for cell in cells:
        total[cell].add_incoming(ir.Constant(_FLOATS, [0.0] * _LANES), entry)
    place = [b.mul(b.add(group, b.mul(groups, _I64(row))), _I64(4)) for row in range(rows)]
    start = [ir.Constant(_FLOATS, [0.0] * _LANES)] * rows
    if integers:
        start = [_spread(b, b.load(_at(b, corrections, place[row]), typ=_I32), _INTS) for row in range(rows)]
    b.branch(input_block)

    # for every 128 bits of its inputs
    b.position_at_end(input_block)
    done, weight_in, value_in, fetch = b.phi(_I64), b.phi(_POINTER), b.phi(_POINTER), b.phi(_POINTER)
    partial = {cell: b.phi(sum_type) for cell in cells}
    summed = dict(partial)
    if ahead:
        for line in range(lines // 2):
            b.call(prefetch, [_at(b, fetch, _I64(line * _LINE)), _I32(0), _I32(2), _I32(1)])
    else:
        for line in range(lines):
            b.call(prefetch, [_at(b, weight_in, _I64(_AHEAD + line * _LINE)), _I32(0), _I32(3), _I32(1)])
    for step in range(0, _UNROLL, widened):
        read = [
            b.load(_at(b, weight_in, _I64((step // widened * _REGISTERS + i) * _LINE)), typ=operand, align=_LINE)
            for i in range(_REGISTERS)
        ]
        for half, weights_of in enumerate(_widen(b, read) if numbers == "int4" else [read]):
            for row in range(rows):
                offset = b.add(b.mul(row_bytes, _I64(row)), _I64(4 * (step + half)))
                same = b.bitcast(_spread(b, b.load(_at(b, value_in, offset), typ=_I32, align=4), _INTS), operand)
                for i, cell in enumerate((row, register) for register in range(_REGISTERS)):
                    if numbers == "fp32":
                        summed[cell] = b.call(fma, [weights_of[i], same, summed[cell]])
                    else:
                        summed[cell] = b.call(instruction, [summed[cell], weights_of[i], same])
    next_done = b.add(done, _I64(4 * _UNROLL))
    next_weight = _at(b, weight_in, _I64(lines * _LINE))
    next_value = _at(b, value_in, _I64(4 * _UNROLL))
    next_fetch = _at(b, fetch, _I64(lines // 2 * _LINE))
    for phi, first, following in (
        (done, _I64(0), next_done),
        (weight_in, weight, next_weight),
        (value_in, value, next_value),
        (fetch, fetched, next_fetch),
        *((partial[cell], start[cell[0]], summed[cell]) for cell in cells),
    ):
        phi.add_incoming(first, group_block)
        phi.add_incoming(following, input_block)
    b.cbranch(b.icmp_signed("<", next_done, group_bytes), input_block, group_end)

    # the group's sums in float32
    b.position_at_end(group_end)
    added, after = summed, next_weight
    if integers:
        scale = [_spread(b, b.load(_at(b, scales, place[row]), typ=_F32), _FLOATS) for row in range(rows)]
        of_weights = [_bfloats(b, next_weight, register) for register in range(_REGISTERS)]
        unit = {(row, register): b.fmul(scale[row], of_weights[register]) for row, register in cells}
        added = {cell: b.call(fma, [b.sitofp(summed[cell], _FLOATS), unit[cell], total[cell]]) for cell in cells}
        after = _at(b, next_weight, _I64(BLOCK * SCALE_SIZE[numbers]))
    next_group = b.add(group, _I64(1))
    group.add_incoming(next_group, group_end)
    weight.add_incoming(after, group_end)
    value.add_incoming(next_value, group_end)
    fetched.add_incoming(next_fetch, group_end)
    for cell in cells:
        total[cell].add_incoming(added[cell], group_end)
    b.cbranch(b.icmp_signed("<", next_group, groups if integers else _I64(1)), group_block, end)

    b.position_at_end(end)
    for row, register in cells:
        b.store(added[row, register], _at(b, sums, _I64((row * BLOCK + register * _LANES) * 4)), align=4)
    b.ret_void()
    return function


def dot(numbers: str, rows: int, ahead: bool) -> Any:
    """A function for numba: `_dot_function` of these numbers and so many rows, addresses as int64.

    ahead : half a block of weights is prefetched, to overlap memory traffic with arithmetic
    """

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
            call = [at[0], at[1], args[2], args[3], *at[4:]]
            builder.call(_dot_function(builder.module, numbers, rows, ahead), call)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return multiply
