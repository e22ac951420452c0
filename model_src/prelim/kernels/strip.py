"""The inner product for weights that are used where they are stored: a few rows with a strip of neighboring outputs.

Every row's sum runs over the inputs in the same order, whatever other rows are multiplied in the same call: one
register of partial sums for each output and row, added up at the end as a tree.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from prelim.kernels.instructions import Instructions

STRIP = 4
"""Outputs whose weights are read side by side."""

INPUTS = 16
"""Inputs must be a multiple of this: the numbers of the largest register."""

_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_POINTER = ir.PointerType()


def strip_rows(instructions: Instructions) -> int:
    """Rows that one call multiplies: with more, the sums would not fit into the registers."""
    return 6 if instructions.registers == 32 else 2


def _at(b: Any, pointer: Any, offset: Any) -> Any:
    return b.gep(pointer, [offset], source_etype=_I8)


def _total(b: Any, value: Any) -> Any:
    """The sum of a register's numbers, halves added to each other."""
    width = value.type.count
    while width > 1:
        width //= 2
        halves = [
            b.shuffle_vector(value, value, ir.Constant(ir.VectorType(_I32, width), [start + i for i in range(width)]))
            for start in (0, width)
        ]
        value = b.fadd(*halves)
    return b.extract_element(value, _I32(0))


def _strip_function(module: Any, instructions: Instructions, rows: int) -> Any:
    """The function for so many rows in the LLVM module, written at its first call.

    Arguments: weights, STRIP rows of `inputs` float32; rows of as many; inputs; where the STRIP sums of each row go,
    and the bytes from one row's sums to the next.
    """
    lanes = instructions.lanes
    vector = ir.VectorType(_F32, lanes)
    name = f"prelim_strip_{instructions.name}_{rows}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_POINTER, _POINTER, _I64, _POINTER, _I64]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    weights, values, inputs, sums, pitch = function.args
    fma = module.declare_intrinsic(f"llvm.fma.v{lanes}f32", (), ir.FunctionType(vector, [vector] * 3))
    entry, loop, end = (function.append_basic_block(name) for name in ("entry", "loop", "end"))
    cells = [(row, output) for row in range(rows) for output in range(STRIP)]
    b = ir.IRBuilder(entry)
    row_bytes = b.mul(inputs, _I64(4))
    b.branch(loop)

    b.position_at_end(loop)
    done = b.phi(_I64)
    partial = {cell: b.phi(vector) for cell in cells}
    read = [
        b.load(_at(b, weights, b.add(done, b.mul(row_bytes, _I64(output)))), typ=vector, align=4)
        for output in range(STRIP)
    ]
    summed = {}
    for row in range(rows):
        value = b.load(_at(b, values, b.add(done, b.mul(row_bytes, _I64(row)))), typ=vector, align=4)
        for output in range(STRIP):
            summed[row, output] = b.call(fma, [read[output], value, partial[row, output]])
    following = b.add(done, _I64(4 * lanes))
    done.add_incoming(_I64(0), entry)
    done.add_incoming(following, loop)
    for cell in cells:
        partial[cell].add_incoming(ir.Constant(vector, [0.0] * lanes), entry)
        partial[cell].add_incoming(summed[cell], loop)
    b.cbranch(b.icmp_signed("<", following, row_bytes), loop, end)

    b.position_at_end(end)
    for row, output in cells:
        place = b.add(b.mul(pitch, _I64(row)), _I64(4 * output))
        b.store(_total(b, summed[row, output]), _at(b, sums, place), align=4)
    b.ret_void()
    return function


def strip_dot(rows: int, instructions: Instructions) -> Any:
    """A function for numba: `_strip_function` for this many rows, with addresses as int64."""

    @intrinsic
    def multiply(context: Any, weights: Any, values: Any, inputs: Any, sums: Any, pitch: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            at = {i: builder.inttoptr(args[i], _POINTER) for i in (0, 1, 3)}
            builder.call(
                _strip_function(builder.module, instructions, rows), [at.get(i, arg) for i, arg in enumerate(args)]
            )
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), generate

    return multiply
