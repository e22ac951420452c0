"""Compiled activations, norms and roundings over the whole range of float32, compared with PyTorch's."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prelim.kernels import GROUP, rotated, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


def whole_range() -> Tensor:
    """Every exponent with both signs and some mantissas, subnormal numbers, zeros, infinities and NaNs."""
    exponents = torch.arange(256)[:, None] << 23
    mantissas = torch.tensor([0, 1, 0x200000, 0x400000, 0x5A5A5A, 0x7FFFFF])
    bits = (exponents + mantissas).flatten()
    both = torch.cat([bits, bits - 2**31]).to(torch.int32).view(torch.float32)
    near = torch.linspace(-120, 120, 20001)
    return torch.cat([both, near, near[:: len(near) // 100].exp(), -near[:: len(near) // 100].exp()])


@cache
def each(name: str) -> Callable[[Any, Any], None]:
    """A function of `rows` applied to every number of an array, compiled as in a step."""
    from numba import njit

    from prelim.kernels import rows

    function = getattr(rows, name)

    @njit(fastmath=rows.FINITE_OR_NOT, error_model="numpy")
    def apply(x, y):  # type: ignore[no-untyped-def]
        for i in range(x.shape[0]):
            y[i] = function(x[i])

    return apply  # type: ignore[no-any-return]


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    # name -> reference, relative and absolute tolerance; the GELUs err by 2e-7 of x
    "exponential": (torch.exp, 3e-6, 3e-38),
    "silu": (torch.nn.functional.silu, 3e-6, 3e-36),
    "relu": (torch.nn.functional.relu, 0, 0),
    "gelu": (torch.nn.functional.gelu, 3e-6, 0),
    "gelu_tanh": (lambda x: torch.nn.functional.gelu(x, approximate="tanh"), 3e-6, 0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activation_is_that_of_pytorch(name: str) -> None:
    """Finite numbers are close, infinities are infinities, NaN stays NaN."""
    reference, relative, absolute = FUNCTIONS[name]
    x = whole_range()
    y = torch.empty_like(x)
    each(name)(x.numpy(), y.numpy())
    wanted = reference(x.double())
    # What float32 has no number for is infinite.
    wanted = wanted.float()
    assert torch.equal(y.isnan(), wanted.isnan() | x.isnan())
    finite = wanted.isfinite()
    assert torch.equal(y[wanted.isinf()], wanted[wanted.isinf()])
    error = (y[finite].double() - wanted[finite].double()).abs()
    bound = relative * wanted[finite].double().abs() + absolute
    if name.startswith("gelu"):
        bound += 2e-7 * x[finite].double().abs().clamp(max=8)
    worst = (error - bound).argmax()
    assert error[worst] <= bound[worst], (x[finite][worst], y[finite][worst], wanted[finite][worst])


def test_bfloat16_is_that_of_pytorch() -> None:
    """Rounded to the even neighbor; a NaN of any payload stays NaN."""
    x = whole_range()
    y = torch.empty(len(x), dtype=torch.int16)
    each("bfloat16")(x.numpy(), y.numpy().view(np.uint16))
    rounded, wanted = y.view(torch.bfloat16), x.bfloat16()
    assert torch.equal(rounded.isnan(), wanted.isnan())
    assert torch.equal(rounded[~wanted.isnan()], wanted[~wanted.isnan()])


NORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "layer_norm": lambda x, weight, bias: torch.nn.functional.layer_norm(x, x.shape, weight, bias, 1e-5),
    "rms_norm": lambda x, weight, bias: torch.nn.functional.rms_norm(x, x.shape, weight, 1e-5),
}


@pytest.mark.parametrize("name", NORMS)
def test_norm_is_that_of_pytorch(name: str) -> None:
    """Rows of every size; NaN where the squares are too large for float32, or where an input is not finite."""
    from prelim.kernels import rows

    torch.manual_seed(0)
    weight, bias = torch.randn(128), torch.randn(128)
    vectors = (weight, bias) if name == "layer_norm" else (weight,)
    for size in (*(2.0**e for e in range(-149, 127, 4)), math.inf, -math.inf, math.nan, 0.0):
        x, y = torch.randn(128), torch.empty(128)
        x = x * size if math.isfinite(size) else torch.cat([x[:-1], torch.tensor([size])])
        getattr(rows, name)(x.numpy(), *(v.numpy() for v in vectors), np.float32(1e-5), y.numpy())
        if x.square().sum().isfinite():
            torch.testing.assert_close(y, NORMS[name](x, weight, bias), atol=1e-5, rtol=1e-5, msg=f"rows of {size}")
        else:
            assert y.isnan().all(), size


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_integers_keep_what_is_not_finite(number: float) -> None:
    """A row with a NaN or an infinity is not finite where it is multiplied by 8-bit weights; its neighbors are."""
    from prelim.kernels.product import packed_product

    torch.manual_seed(0)
    x = torch.randn(3, 2 * GROUP)
    x[1, 70] = number
    weight = torch.randint(-127, 128, (70, 2 * GROUP), dtype=torch.int8)
    product = packed_product(weight, torch.rand(70, 2).bfloat16(), None)
    y = product(x)
    assert not y[1].isfinite().any()
    assert y[[0, 2]].isfinite().all()


def test_integers_of_every_size() -> None:
    """Rotated groups up to 2^123, whose sums are of float32, are rounded to half a unit, those below 1e-36 to zero."""
    from prelim.kernels.rows import quantize

    torch.manual_seed(0)
    for exponent in range(-149, 124, 3):
        x = torch.randn(GROUP).clamp(-1.9, 1.9) * 2.0**exponent
        turned = rotated(x)
        values, scales, corrections = np.zeros(GROUP, np.int8), np.zeros(1, np.float32), np.zeros(1, np.int32)
        quantize(x.numpy(), values, scales, corrections)
        unit = float(turned.abs().max()) / 127
        back = torch.from_numpy(values).double() * float(scales[0])
        assert corrections[0] == -128 * int(values.astype(np.int32).sum())
        assert (back - turned.double()).abs().max() <= max(0.51 * unit, 1e-36), exponent


def test_a_rotation_is_its_own_inverse() -> None:
    """It keeps lengths, spreads what is large over its group alone, and is the same in compiled code."""
    from prelim.kernels.rows import rotate

    torch.manual_seed(0)
    x, y = torch.randn(3 * GROUP), torch.empty(3 * GROUP)
    x[GROUP + 7] = 1000
    turned = rotated(x)
    rotate(x.numpy(), y.numpy(), np.zeros(0, np.float32), np.zeros(0, np.int32))

    torch.testing.assert_close(y, turned, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(rotated(turned), x, atol=1e-3, rtol=1e-5)
    assert 120 < turned[GROUP : 2 * GROUP].abs().min() < turned.abs().max() < 130
    assert turned[:GROUP].abs().max() < 5


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_keeps_what_is_not_finite(number: float, dtype: torch.dtype) -> None:
    """A NaN or an infinity among a row's own keys or values reaches what it gathers; elsewhere it reaches nobody."""
    from prelim.kernels.attention import attend

    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 3, 32), torch.randn(2, 2, 20, 32), torch.randn(2, 2, 20, 32)
    mask = torch.ones(2, 1, 3, 20, dtype=torch.bool)
    mask[:, :, 1, 5] = mask[:, :, 2, 9] = False
    wanted = attend(query, key.to(dtype), value.to(dtype), mask)
    value[:, :, 5, 7] = number
    got = attend(query, key.to(dtype), value.to(dtype), mask)
    assert torch.equal(got[:, :, 1], wanted[:, :, 1])
    assert not got[:, :, [0, 2], 7].isfinite().any()
    key[:, :, 9] = math.nan
    got = attend(query, key.to(dtype), value.to(dtype), mask)
    assert got[:, :, :2].isnan().all()
    assert torch.isfinite(got[:, :, 2]).sum() == got[:, :, 2].numel() - 2 * 4
