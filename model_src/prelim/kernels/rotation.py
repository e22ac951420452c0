"""Groups of inputs, rotated before they are rounded: no number is large then, where others are small.

A large number decides the scale of its group, and so coarsens its neighbors. Multiplied by a Hadamard matrix, which is
orthogonal, the numbers of a group are of one size; the weights are stored multiplied by the same matrix, so products
stay what they are. Source: Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", 2024, here for
groups instead of whole rows, so that nothing has to be folded into other layers.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from prelim.kernels import GROUP

_LANES = 16
_REGISTERS = GROUP // _LANES
_LEVELS = 127
_SMALLEST = 1e-36
"""Groups whose largest number is smaller count as zeros: 127 divided by it is not a float32."""

_I8, _I32, _F32 = ir.IntType(8), ir.IntType(32), ir.FloatType()
_FLOATS, _INTS, _BYTES = (ir.VectorType(kind, _LANES) for kind in (_F32, _I32, _I8))


def _all(vector: Any, value: Any) -> Any:
    return ir.Constant(vector, [value] * _LANES)


def _declare(b: Any, name: str, result: Any, *operands: Any) -> Any:
    return b.module.declare_intrinsic(name, (), ir.FunctionType(result, operands))


def _turned(b: Any, pointer: Any) -> list[Any]:
    """The registers of a group in memory, multiplied by the matrix: sums and differences of halves of halves."""
    # A power of two: exact, and no sum is larger than eight times the largest number.
    factor = _all(_FLOATS, 1 / GROUP**0.5)
    at = [b.gep(pointer, [_I32(i * _LANES)], source_etype=_F32) for i in range(_REGISTERS)]
    found = [b.fmul(b.load(place, typ=_FLOATS, align=4), factor) for place in at]
    step = _REGISTERS // 2
    while step:
        for i in range(_REGISTERS):
            if not i & step:
                found[i], found[i + step] = b.fadd(found[i], found[i + step]), b.fsub(found[i], found[i + step])
        step //= 2
    step = _LANES // 2
    while step:
        order = ir.Constant(ir.VectorType(_I32, _LANES), [lane ^ step for lane in range(_LANES)])
        signs = ir.Constant(_FLOATS, [-1.0 if lane & step else 1.0 for lane in range(_LANES)])
        found = [b.fadd(b.fmul(x, signs), b.shuffle_vector(x, x, order)) for x in found]
        step //= 2
    return found


def _pointers(builder: Any, signature: Any, args: Any, context: Any) -> list[Any]:
    """Where the first numbers of the arrays are."""
    data = [
        context.make_array(kind)(context, builder, arg).data for kind, arg in zip(signature.args, args, strict=True)
    ]
    return [builder.inttoptr(builder.ptrtoint(pointer, ir.IntType(64)), ir.PointerType()) for pointer in data]


@intrinsic
def rotate_group(context: Any, x: Any, y: Any) -> Any:
    """The first GROUP numbers of x, multiplied by the matrix, into y; both of float32."""

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        source, target = _pointers(b, signature, args, context)
        for i, register in enumerate(_turned(b, source)):
            b.store(register, b.gep(target, [_I32(i * _LANES)], source_etype=_F32), align=4)
        return context.get_dummy_value()

    return types.void(x, y), generate


@intrinsic
def round_group(context: Any, x: Any, values: Any, scale: Any, correction: Any) -> Any:
    """The first GROUP numbers of x, rotated, as integers; their scale; and the correction, -128 times their sum.

    x : of float32, values : of int8, scale : of float32, correction : of int32
    """

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        source, target, to_scale, to_correction = _pointers(b, signature, args, context)
        registers = _turned(b, source)
        # As integers, the bits of numbers without a sign have the order of the numbers, with infinity and NaN on top.
        bits = [b.and_(b.bitcast(register, _INTS), _all(_INTS, 0x7FFFFFFF)) for register in registers]
        largest = _declare(b, "llvm.umax.v16i32", _INTS, _INTS, _INTS)
        most = bits[0]
        for one in bits[1:]:
            most = b.call(largest, [most, one])
        reduce = _declare(b, "llvm.vector.reduce.umax.v16i32", _I32, _INTS)
        peak = b.bitcast(b.call(reduce, [most]), _F32)
        some = b.fcmp_ordered(">", peak, _F32(_SMALLEST))
        finite = b.fcmp_ordered("<", peak, _F32(float("inf")))
        counts = b.and_(some, finite)
        factor = b.select(counts, b.fdiv(_F32(_LEVELS), peak), _F32(0.0))
        lane = ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES)
        nothing = ir.Constant(_FLOATS, ir.Undefined)
        factors = b.shuffle_vector(b.insert_element(nothing, factor, _I32(0)), nothing, lane)
        nearest = _declare(b, "llvm.rint.v16f32", _FLOATS, _FLOATS)
        total = _all(_INTS, 0)
        for i, register in enumerate(registers):
            rounded = b.call(nearest, [b.fmul(register, factors)])
            # Infinity and NaN times zero are NaN, which no integer stands for.
            integers = b.fptosi(b.select(counts, rounded, _all(_FLOATS, 0.0)), _INTS)
            total = b.add(total, integers)
            place = b.gep(target, [_I32(i * _LANES)], source_etype=_I8)
            b.store(b.trunc(integers, _BYTES), place, align=1)
        add = _declare(b, "llvm.vector.reduce.add.v16i32", _I32, _INTS)
        b.store(b.fdiv(peak, _F32(_LEVELS)), to_scale)
        b.store(b.mul(b.call(add, [total]), _I32(-128)), to_correction)
        return context.get_dummy_value()

    return types.void(x, values, scale, correction), generate
