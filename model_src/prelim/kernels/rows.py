"""What happens to single rows of numbers, for use inside compiled steps; loops that LLVM makes vector code of."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from prelim.kernels import GROUP
from prelim.kernels.rotation import rotate_group, round_group

FINITE_OR_NOT = {"contract"}
"""Liberties of the compiler with floating point: NaN and infinity keep their meaning, so that they reach the logits."""

SUMS = {"contract", "reassoc"}
"""The same, and sums may take another order, which depends on their number of terms alone."""

_F = np.float32


@intrinsic
def address(context: Any, number: Any) -> Any:
    """A number as the pointer that it is."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.PointerType())

    return types.voidptr(number), generate


@intrinsic
def _float_of_bits(context: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _bits_of_float(context: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


@njit(inline="always")
def bfloat16(x):
    """The 16 bits of the bfloat16 next to x, of two equally near ones the even one; NaN stays NaN."""
    bits = np.uint32(_bits_of_float(np.float32(x)))
    rounded = np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))
    return np.uint16(0x7FC0) if np.isnan(x) else rounded


@njit(inline="always")
def of_bfloat16(bits):
    """The number that these 16 bits are."""
    return _float_of_bits(np.int32(np.uint32(bits) << np.uint32(16)))


@njit(inline="always")
def float32(x):
    """The number itself, where others have to be converted."""
    return x


@njit(fastmath=FINITE_OR_NOT, error_model="numpy", inline="always")
def exponential(x):
    """E to the power of x; relative error 2e-7, 0 below -86.6. Source: the polynomial of Cephes' expf (Moshier)."""
    # NaN takes the lower bound, because no integer stands for it; it is put back at the end.
    bounded = x if x > _F(-86.6) else _F(-86.6)
    bounded = bounded if bounded < _F(88.7228) else _F(88.7228)
    n = np.rint(bounded * _F(1.4426950408889634))
    f = bounded - n * _F(0.693359375) + n * _F(2.12194440e-4)
    p = _F(1.9875691500e-4)
    p = p * f + _F(1.3981999507e-3)
    p = p * f + _F(8.3334519073e-3)
    p = p * f + _F(4.1665795894e-2)
    p = p * f + _F(1.6666665459e-1)
    p = p * f + _F(0.5)
    p = p * f * f + f + _F(1)
    # Half of 2^n at a time: 2^128 is not a float32, though p times it may be.
    y = p * _F(2) * _float_of_bits((np.int32(n) + np.int32(126)) << np.int32(23))
    y = y if x >= _F(-86.6) else _F(0)
    y = y if x <= _F(88.7228) else _F(np.inf)
    return x if np.isnan(x) else y


@njit(fastmath=FINITE_OR_NOT, error_model="numpy", inline="always")
def gelu(x):
    """GELU by the error function; absolute error 2e-7 |x|. Source: Abramowitz and Stegun, 7.1.26."""
    z = abs(x) * _F(0.7071067811865476)
    t = _F(1) / (_F(1) + _F(0.3275911) * z)
    p = _F(1.061405429)
    p = p * t + _F(-1.453152027)
    p = p * t + _F(1.421413741)
    p = p * t + _F(-0.284496736)
    p = p * t + _F(0.254829592)
    rest = p * t * exponential(-z * z)
    return _F(0.5) * x * (rest if x < 0 else _F(2) - rest)


@njit(fastmath=FINITE_OR_NOT, error_model="numpy", inline="always")
def gelu_tanh(x):
    """GELU by the hyperbolic tangent. Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2."""
    return x / (_F(1) + exponential(_F(-1.5957691216057308) * (x + _F(0.044715) * x * x * x)))


@njit(inline="always")
def relu(x):
    """X, or 0 if it is below; NaN stays NaN."""
    return _F(0) if x < _F(0) else x


@njit(fastmath=FINITE_OR_NOT, error_model="numpy", inline="always")
def silu(x):
    """X times its logistic function."""
    return x / (_F(1) + exponential(-x))


@njit(fastmath=FINITE_OR_NOT, error_model="numpy", inline="always")
def _one_by_root(square):
    """One divided by the root; NaN for squares beyond float32, so that the row does not become zeros."""
    return _F(1) / np.sqrt(square) if square < _F(np.inf) else _F(np.nan)


@njit(fastmath=SUMS, error_model="numpy")
def layer_norm(x, weight, bias, eps, y):
    """Layer norm of x, shape (width,), into y."""
    width = x.shape[0]
    mean = _F(0)
    for j in range(width):
        mean += x[j]
    mean /= _F(width)
    variance = _F(0)
    for j in range(width):
        variance += (x[j] - mean) * (x[j] - mean)
    factor = _one_by_root(variance / _F(width) + eps)
    for j in range(width):
        y[j] = (x[j] - mean) * factor * weight[j] + bias[j]


@njit(fastmath=SUMS, error_model="numpy")
def rms_norm(x, weight, eps, y):
    """RMS norm of x, shape (width,), into y."""
    width = x.shape[0]
    square = _F(0)
    for j in range(width):
        square += x[j] * x[j]
    factor = _one_by_root(square / _F(width) + eps)
    for j in range(width):
        y[j] = x[j] * factor * weight[j]


@njit
def quantize(x, values, scales, corrections):
    """Integers of -127 to 127 for x, shape (inputs,), with one scale for GROUP of them, each group rotated.

    A group that has a NaN or an infinity gets a scale that is not finite, and becomes NaN where it is multiplied.

    corrections : what `dot` starts from, because its weights have 128 added
    """
    for g in range(x.shape[0] // GROUP):
        round_group(x[g * GROUP :], values[g * GROUP :], scales[g:], corrections[g:])


@njit
def rotate(x, values, scales, corrections):
    """X, shape (inputs,), each group rotated; scales and corrections are of integers only."""
    for g in range(x.shape[0] // GROUP):
        rotate_group(x[g * GROUP :], values[g * GROUP :])


@njit
def round_to_bfloat16(x, values, scales, corrections):
    """X, shape (inputs,), as bfloat16; scales and corrections are of integers only."""
    for j in range(x.shape[0]):
        values[j] = bfloat16(x[j])


@njit
def copy(x, values, scales, corrections):
    """X, shape (inputs,), as it is; scales and corrections are of integers only."""
    for j in range(x.shape[0]):
        values[j] = x[j]
