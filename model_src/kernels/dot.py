"""The inner product that decoding spends its time in: a few rows of 8-bit integers with a block of 8-bit weights.

The weights of BLOCK outputs stand together as the processor reads them: for every four inputs, four registers of 16
outputs each, every output's four weights side by side, plus 128 (the instruction multiplies unsigned with signed
integers). So a whole matrix is one stream of memory. Source: Intel 64 and IA-32 Architectures Software Developer's
Manual, volume 2, VPDPBUSD; the blocking is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix
Multiplication", 2008, for so few rows that only the weights are too large for the caches.
"""

from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from model_src.kernels import GROUP

BLOCK = 64
"""Outputs whose weights stand together."""

MAX_ROWS = 3
"""Rows that one call multiplies: more would not fit into the processor's 32 registers."""

_LANES = 16
_REGISTERS = BLOCK // _LANES
_INPUTS = 4
"""Inputs of one instruction."""

_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_POINTER = ir.PointerType()
_FLOATS, _INTS = ir.VectorType(_F32, _LANES), ir.VectorType(_I32, _LANES)
_BYTES = ir.VectorType(_I8, _LANES * _INPUTS)


def pack(weight: Tensor) -> Tensor:
    """Weights as `dot` reads them, those of missing outputs of the last block zero.

    weight  : Tensor of int8, shape (outputs, inputs), inputs a multiple of GROUP
    returns : Tensor of uint8, one-dimensional
    """
    outputs, inputs = weight.shape
    padded = torch.nn.functional.pad(weight, (0, 0, 0, -outputs % BLOCK))
    blocks = padded.view(-1, _REGISTERS, _LANES, inputs // _INPUTS, _INPUTS).permute(0, 3, 1, 2, 4)
    # Adding 128 to a signed byte flips its highest bit.
    return (blocks.contiguous().view(torch.uint8) ^ 0x80).flatten()


def _spread(b: Any, value: Any, vector: Any) -> Any:
    """A vector of one value."""
    nothing = ir.Constant(vector, ir.Undefined)
    first = b.insert_element(nothing, value, _I32(0))
    return b.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES))


def _at(b: Any, pointer: Any, offset: Any) -> Any:
    return b.gep(pointer, [offset], source_etype=_I8)


def _dot_function(module: Any, rows: int) -> Any:
    """The function for so many rows in the LLVM module, written at its first call.

    Arguments: weights of the block; rows of integers, inputs a row; groups; scales and corrections of the groups, one
    row after the other; where the BLOCK sums of each row go.
    """
    name = f"prelim_int8_dot_{rows}"
    if name in module.globals:
        return module.globals[name]
    signature = ir.FunctionType(ir.VoidType(), [_POINTER, _POINTER, _I64, _I64, _POINTER, _POINTER, _POINTER])
    function = ir.Function(module, signature, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    weights, values, inputs, groups, scales, corrections, sums = function.args
    multiply = module.declare_intrinsic(
        "llvm.x86.avx512.vpdpbusd.512", (), ir.FunctionType(_INTS, [_INTS, _BYTES, _BYTES])
    )
    fma = module.declare_intrinsic("llvm.fma.v16f32", (), ir.FunctionType(_FLOATS, [_FLOATS] * 3))
    entry, group_block, input_block, scale_block, end = (
        function.append_basic_block(name) for name in ("entry", "group", "input", "scale", "end")
    )
    cells = [(row, register) for row in range(rows) for register in range(_REGISTERS)]
    b = ir.IRBuilder(entry)
    b.branch(group_block)

    # for every group: integers are summed from the correction on
    b.position_at_end(group_block)
    group, weight, value = b.phi(_I64), b.phi(_POINTER), b.phi(_POINTER)
    total = {cell: b.phi(_FLOATS) for cell in cells}
    group.add_incoming(_I64(0), entry)
    weight.add_incoming(weights, entry)
    value.add_incoming(values, entry)
    for cell in cells:
        total[cell].add_incoming(ir.Constant(_FLOATS, [0.0] * _LANES), entry)
    place = [b.mul(b.add(group, b.mul(groups, _I64(row))), _I64(4)) for row in range(rows)]
    start = [_spread(b, b.load(_at(b, corrections, place[row]), typ=_I32), _INTS) for row in range(rows)]
    b.branch(input_block)

    # for every 16 of its inputs
    b.position_at_end(input_block)
    unroll = 4
    count, weight_in, value_in = b.phi(_I64), b.phi(_POINTER), b.phi(_POINTER)
    partial = {cell: b.phi(_INTS) for cell in cells}
    count.add_incoming(_I64(0), group_block)
    weight_in.add_incoming(weight, group_block)
    value_in.add_incoming(value, group_block)
    summed = dict(partial)
    for step in range(unroll):
        read = [
            b.load(_at(b, weight_in, _I64((step * _REGISTERS + register) * BLOCK)), typ=_BYTES, align=BLOCK)
            for register in range(_REGISTERS)
        ]
        for row in range(rows):
            offset = b.add(b.mul(inputs, _I64(row)), _I64(_INPUTS * step))
            four = b.load(_at(b, value_in, offset), typ=_I32, align=4)
            same = b.bitcast(_spread(b, four, _INTS), _BYTES)
            for register in range(_REGISTERS):
                summed[row, register] = b.call(multiply, [summed[row, register], read[register], same])
    next_count = b.add(count, _I64(unroll * _INPUTS))
    next_weight = _at(b, weight_in, _I64(unroll * _REGISTERS * BLOCK))
    next_value = _at(b, value_in, _I64(unroll * _INPUTS))
    count.add_incoming(next_count, input_block)
    weight_in.add_incoming(next_weight, input_block)
    value_in.add_incoming(next_value, input_block)
    for cell in cells:
        partial[cell].add_incoming(start[cell[0]], group_block)
        partial[cell].add_incoming(summed[cell], input_block)
    b.cbranch(b.icmp_signed("<", next_count, _I64(GROUP)), input_block, scale_block)

    # the group's sums in float32
    b.position_at_end(scale_block)
    scale = [_spread(b, b.load(_at(b, scales, place[row]), typ=_F32), _FLOATS) for row in range(rows)]
    added = {cell: b.call(fma, [b.sitofp(summed[cell], _FLOATS), scale[cell[0]], total[cell]]) for cell in cells}
    next_group = b.add(group, _I64(1))
    group.add_incoming(next_group, scale_block)
    weight.add_incoming(next_weight, scale_block)
    value.add_incoming(next_value, scale_block)
    for cell in cells:
        total[cell].add_incoming(added[cell], scale_block)
    b.cbranch(b.icmp_signed("<", next_group, groups), group_block, end)

    b.position_at_end(end)
    for row, register in cells:
        b.store(added[row, register], _at(b, sums, _I64((row * BLOCK + register * _LANES) * 4)), align=4)
    b.ret_void()
    return function


def _dot(rows: int) -> Any:
    @intrinsic
    def dot(
        context: Any, weights: Any, values: Any, inputs: Any, groups: Any, scales: Any, corrections: Any, sums: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = [builder.inttoptr(arg, _POINTER) for arg in args]
            call = [at[0], at[1], args[2], args[3], at[4], at[5], at[6]]
            builder.call(_dot_function(builder.module, rows), call)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return dot


dot1, dot2, dot3 = (_dot(rows) for rows in range(1, MAX_ROWS + 1))
