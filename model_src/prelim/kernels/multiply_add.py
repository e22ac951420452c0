"""A register of weights times 32 bits of a row, added to sums: all in which kernels for kinds of processors differ.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, VPDPBUSD, VPMADDUBSW, VPMADDWD,
VDPBF16PS, VFMADD, VPSHUFB; Arm A64 Instruction Set Architecture, SDOT, FMLA, TBL.
"""

from typing import Any

from llvmlite import ir

from prelim.kernels import FOUR_BITS
from prelim.kernels.instructions import Instructions

Values = tuple[Any, ...]
"""What a register becomes before it is multiplied."""


class _BFloat(ir.HalfType):
    """LLVM's bfloat, which llvmlite has no name for."""

    def __str__(self) -> str:
        return "bfloat"


_BFloat._create_instance()
_I8, _I16, _I32, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType()


def declare(b: Any, name: str, result: Any, *operands: Any) -> Any:
    """One of LLVM's own functions."""
    return b.module.declare_intrinsic(name, (), ir.FunctionType(result, operands))


def constant(vector: Any, value: Any) -> Any:
    """A register of one value."""
    return ir.Constant(vector, [value] * vector.count)


class MultiplyAdd:
    """Multiplications and additions of one kind of numbers.

    lanes    : outputs of a register
    sums     : type of a register of sums
    steps    : how many times 32 bits of inputs the weights of a register are multiplied with
    unsigned : weights are stored with 128 added, and sums start from -128 times what they are multiplied with
    """

    steps = 1
    unsigned = False

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.floats, self.ints = ir.VectorType(_F32, lanes), ir.VectorType(_I32, lanes)
        self.shorts, self.bytes = ir.VectorType(_I16, 2 * lanes), ir.VectorType(_I8, 4 * lanes)
        self.sums = self.floats

    def weights(self, b: Any, register: Any) -> list[Values]:
        """For each step, what a register of ints from memory is multiplied as."""
        return [(b.bitcast(register, self.floats),)]

    def row(self, b: Any, register: Any) -> Values:
        """What 32 bits of a row, the same in all lanes, are multiplied as."""
        return (b.bitcast(register, self.floats),)

    def add(self, b: Any, sums: Any, weights: Values, row: Values) -> Any:
        """Sums and the products of every lane."""
        raise NotImplementedError

    def fma(self, b: Any, x: Any, y: Any, sums: Any) -> Any:
        """Sums and x times y, of float32."""
        name = f"llvm.fma.v{self.lanes}f32"
        return b.call(declare(b, name, self.floats, *[self.floats] * 3), [x, y, sums])


class Float32(MultiplyAdd):
    """Float32."""

    def add(self, b: Any, sums: Any, weights: Values, row: Values) -> Any:
        """By FMA."""
        return self.fma(b, weights[0], row[0], sums)


class WidenedBfloats(MultiplyAdd):
    """Pairs of bfloat16 as two registers of float32: a bfloat16 is the first half of one."""

    def weights(self, b: Any, register: Any) -> list[Values]:
        """The pairs' first numbers, and their second ones."""
        return [self.row(b, register)]

    def row(self, b: Any, register: Any) -> Values:
        """The same."""
        first = b.shl(register, constant(self.ints, 16))
        second = b.and_(register, constant(self.ints, 0xFFFF0000))
        return b.bitcast(first, self.floats), b.bitcast(second, self.floats)

    def add(self, b: Any, sums: Any, weights: Values, row: Values) -> Any:
        """By two FMAs."""
        for x, y in zip(weights, row, strict=True):
            sums = self.fma(b, x, y, sums)
        return sums


class Bfloats(MultiplyAdd):
    """Pairs of bfloat16, by the instruction for them."""

    def __init__(self, lanes: int) -> None:
        super().__init__(lanes)
        self._pairs = ir.VectorType(_BFloat(), 2 * lanes)

    def weights(self, b: Any, register: Any) -> list[Values]:
        """The pairs."""
        return [self.row(b, register)]

    def row(self, b: Any, register: Any) -> Values:
        """The pair."""
        return (b.bitcast(register, self._pairs),)

    def add(self, b: Any, sums: Any, weights: Values, row: Values) -> Any:
        """By VDPBF16PS."""
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * self.lanes}"
        instruction = declare(b, name, self.sums, self.sums, self._pairs, self._pairs)
        return b.call(instruction, [sums, *weights, *row])


class SignedBytes(MultiplyAdd):
    """Four integers of 8 bits, by SDOT."""

    def __init__(self, lanes: int) -> None:
        super().__init__(lanes)
        self.sums = self.ints

    def weights(self, b: Any, register: Any) -> list[Values]:
        """The integers."""
        return [self.row(b, register)]

    def row(self, b: Any, register: Any) -> Values:
        """The integers."""
        return (b.bitcast(register, self.bytes),)

    def add(self, b: Any, sums: Any, weights: Values, row: Values) -> Any:
        """By SDOT."""
        instruction = declare(b, "llvm.aarch64.neon.sdot.v4i32.v16i8", self.sums, self.sums, self.bytes, self.bytes)
        return b.call(instruction, [sums, *weights, *row])


class UnsignedBytes(SignedBytes):
    """Four integers of 8 bits, by VPDPBUSD, which multiplies unsigned with signed ones."""

    unsigned = True

    def add(self, b: Any, sums: Any, weights: Values, row: Values) -> Any:
        """By VPDPBUSD."""
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        instruction = declare(b, name, self.sums, self.sums, self.bytes, self.bytes)
        return b.call(instruction, [sums, *weights, *row])


class PairedBytes(SignedBytes):
    """Four integers of 8 bits as two sums of two products, which 16 bits hold: 2 * 127 * 127 is less than 2 ** 15.

    The instruction multiplies unsigned with signed ones, so weights lose their signs, and what they are multiplied with
    gets them.
    """

    def weights(self, b: Any, register: Any) -> list[Values]:
        """The integers, and their magnitudes."""
        (integers,) = self.row(b, register)
        magnitude = declare(b, f"llvm.abs.v{4 * self.lanes}i8", self.bytes, self.bytes, ir.IntType(1))
        return [(integers, b.call(magnitude, [integers, ir.IntType(1)(0)]))]

    def add(self, b: Any, sums: Any, weights: Values, row: Values) -> Any:
        """By VPMADDUBSW and VPMADDWD."""
        pairs, fours = {
            8: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
            16: ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"),
        }[self.lanes]
        integers, magnitudes = weights
        signed = self._signed(b, row[0], integers)
        two = b.call(declare(b, pairs, self.shorts, self.bytes, self.bytes), [magnitudes, signed])
        four = b.call(declare(b, fours, self.ints, self.shorts, self.shorts), [two, constant(self.shorts, 1)])
        return b.add(sums, four)

    def _signed(self, b: Any, row: Any, weights: Any) -> Any:
        """What is multiplied, with the signs of the weights."""
        if self.lanes == 8:
            sign = declare(b, "llvm.x86.avx2.psign.b", self.bytes, self.bytes, self.bytes)
            return b.call(sign, [row, weights])
        zero = constant(self.bytes, 0)
        return b.select(b.icmp_signed("<", weights, zero), b.sub(zero, row), row)


class HalfBytes(MultiplyAdd):
    """Weights of four bits: a table makes integers of 8 bits of them, which are multiplied as those are."""

    steps = 2

    def __init__(self, whole: MultiplyAdd) -> None:
        super().__init__(whole.lanes)
        self._whole, self.sums, self.unsigned = whole, whole.sums, whole.unsigned

    def weights(self, b: Any, register: Any) -> list[Values]:
        """Those of the low halves of all bytes, and those of the high ones."""
        name = {4: "llvm.aarch64.neon.tbl1.v16i8", 8: "llvm.x86.avx2.pshuf.b", 16: "llvm.x86.avx512.pshuf.b.512"}
        look_up = declare(b, name[self.lanes], self.bytes, self.bytes, self.bytes)
        # The instruction looks up every 16 bytes by themselves.
        numbers = [number + 128 * self.unsigned for number in FOUR_BITS]
        table, low = ir.Constant(self.bytes, numbers * (self.lanes // 4)), constant(self.bytes, 15)
        shifted = b.lshr(b.bitcast(register, self.shorts), constant(self.shorts, 4))
        halves = [b.and_(b.bitcast(half, self.bytes), low) for half in (register, shifted)]
        found = [b.bitcast(b.call(look_up, [table, half]), self.ints) for half in halves]
        return [values for one in found for values in self._whole.weights(b, one)]

    def row(self, b: Any, register: Any) -> Values:
        """As with 8 bits."""
        return self._whole.row(b, register)

    def add(self, b: Any, sums: Any, weights: Values, row: Values) -> Any:
        """As with 8 bits."""
        return self._whole.add(b, sums, weights, row)


_BY_INSTRUCTION: dict[str, type[MultiplyAdd]] = {
    "vpdpbusd": UnsignedBytes,
    "vpmaddubsw": PairedBytes,
    "sdot": SignedBytes,
    "vdpbf16ps": Bfloats,
    "widened": WidenedBfloats,
}


def multiply_add(numbers: str, instructions: Instructions) -> MultiplyAdd:
    """That of numbers "fp32", "bf16", "int8" or "int4"."""
    lanes = instructions.lanes
    if numbers == "fp32":
        return Float32(lanes)
    if numbers == "bf16":
        return _BY_INSTRUCTION[instructions.bfloat16](lanes)
    if instructions.integers is None:
        raise ValueError(f"{instructions.name} has no instruction for {numbers}")
    whole = _BY_INSTRUCTION[instructions.integers](lanes)
    return HalfBytes(whole) if numbers == "int4" else whole
