"""Each compiled kernel by itself: attention and products of every kind equal those of PyTorch."""

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from prelim.kernels import FOUR_BITS, GROUP, NF4_BLOCK, fits, instructions, rotated, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"nothing can be compiled here: {unavailable()}")


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def units(weight: Tensor) -> Tensor | None:
    """Random scales of groups of integers."""
    if weight.dtype != torch.int8:
        return None
    return (torch.rand(len(weight), -(-weight.shape[1] // GROUP)) + 0.5).bfloat16()


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_that_of_pytorch(heads: int, kv_heads: int, dtype: torch.dtype) -> None:
    """Also of keys that are a part of a cache, with and without a mask; columns that are hidden may hold anything."""
    from prelim.kernels.attention import attend

    sequences, rows, length, width = 2, 3, 7, 20
    cache = random(2, 3, kv_heads, 9, width, seed=1).to(dtype)
    query = random(sequences, heads, rows, width).to(dtype)
    mask = random(sequences, 1, rows, length, seed=2) > 0
    mask[..., 2] = True
    mask[..., 5] = False
    key, value = cache[:, 1:3, :, :length]
    for hidden in (mask, None):
        # Padded floats are widened exactly, so that float32 is the reference for both types.
        expected = scaled_dot_product_attention(
            query.float(), key.float(), value.float(), attn_mask=hidden, enable_gqa=True
        )

        got = attend(query, key, value, hidden)

        assert (got.shape, got.dtype) == (query.shape, dtype)
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(got.float(), expected, atol=tolerance, rtol=tolerance)
    before = attend(query, key, value, mask)
    cache[:, :, :, 5] = 1e30
    assert torch.equal(attend(query, key, value, mask), before)


@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("score", [-3e3, 3e3])
def test_attention_to_scores_of_any_size(score: float, column: int) -> None:
    """What the largest score of all takes, wherever it stands, is all there is; no exponential is too large."""
    from prelim.kernels.attention import attend

    key, value = torch.zeros(1, 1, 4, 4), random(1, 1, 4, 4)
    key[0, 0, :, 0] = score
    key[0, 0, column, 0] += 200
    query = torch.zeros(1, 1, 1, 4)
    query[..., 0] = 2
    assert torch.equal(attend(query, key, value, None)[0, 0, 0], value[0, 0, column])


def test_attention_reads_a_cache_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither keys nor values are copied, which at every step would cost more than reading them; others are."""
    from prelim.kernels import attention, team

    read: list[tuple[int, int]] = []
    run = team.run

    def noted(kernel: Any, at: int) -> None:
        arguments = np.frombuffer(
            (ctypes.c_char * attention._ARGUMENTS.itemsize).from_address(at), attention._ARGUMENTS
        )
        read.append((int(arguments["key"][0]), int(arguments["value"][0])))
        run(kernel, at)

    monkeypatch.setattr(team, "run", noted)
    cache, query = random(2, 1, 3, 9, 20), random(1, 3, 2, 20)
    key, value = cache[..., :7, :]
    wanted = attention.attend(query, key, value, None)
    assert read == [(key.data_ptr(), value.data_ptr())]
    # Of heads that stand side by side, numbers may be further apart than 1.
    turned = [t.transpose(2, 3).contiguous().transpose(2, 3) for t in (key, value)]
    assert torch.equal(attention.attend(query, *turned, None), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 16), (5, 40), (70, 64), (3, 160)])
def test_products_with_weights_where_they_are(dtype: torch.dtype, outputs: int, inputs: int) -> None:
    """Any number of rows, of which 24 share a widened strip; inputs that do not fill a register are padded."""
    from prelim.kernels.product import stored_product

    weight = random(outputs, inputs) * (40 if dtype == torch.int8 else 1)
    weight = weight.clamp(-127, 127).to(dtype)
    scale, bias = units(weight), random(outputs, seed=1)
    matrix = weight.double()
    if scale is not None:
        matrix *= scale.double().repeat_interleave(GROUP, dim=1)[:, :inputs]
    product, plain = stored_product(weight, scale, bias), stored_product(weight, scale, None)
    for rows in (1, 2, 3, 4, 5, 6, 7, 8, 12, 23, 24, 25, 50):
        x = random(rows, inputs, seed=rows)
        wanted = x.double() @ matrix.T + bias

        got = product(x)

        assert ((got.double() - wanted).abs() / (matrix.norm(dim=1) + 1)).max() < 1e-5, rows
        torch.testing.assert_close(plain(x) + bias, got, atol=1e-3, rtol=1e-5)
        assert torch.equal(product(x[-1:])[0], got[-1]), "a row's product is the same alone"
    assert product(x[None]).shape == (1, rows, outputs)
    assert product(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("rows", [1, 3, 25])
def test_products_of_rotated_rows(rows: int) -> None:
    """For processors that multiply no integers: rows are rotated as the weights are, and not rounded."""
    from prelim.kernels.product import turned_product

    weight = (random(70, 2 * GROUP) * 40).clamp(-127, 127).to(torch.int8)
    scale, x, bias = units(weight), random(rows, 2 * GROUP, seed=rows), random(70, seed=1)
    assert scale is not None
    product = turned_product(weight, scale, bias)

    wanted = x @ rotated(weight * scale.float().repeat_interleave(GROUP, dim=1)).T + bias
    torch.testing.assert_close(product(x), wanted, atol=1e-2, rtol=1e-4)
    assert torch.equal(product(x[-1:])[0], product(x)[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_products_on_several_threads(same_on_all_threads: Any, dtype: torch.dtype) -> None:
    """Every output is computed, and not before all rows are ready; also where there are fewer blocks than threads."""
    from prelim.kernels.product import packed_product, stored_product

    for outputs in (10 * GROUP + 5, 9):
        weight = (random(outputs, 4 * GROUP) * 40).clamp(-127, 127).to(dtype)
        for product in (stored_product, *([packed_product] if fits(weight) else [])):
            multiply = product(weight, units(weight), None)
            same_on_all_threads(lambda i, multiply=multiply: multiply(random(9, 4 * GROUP, seed=i)))


@pytest.mark.parametrize("rows", [1, 25])
def test_products_of_rotated_rows_with_four_bits(rows: int) -> None:
    """The numbers that halves of bytes stand for, the first in the high half."""
    from prelim.kernels.product import turned_product

    weight = torch.randint(0, 256, (6, GROUP), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scale, x, bias = (torch.rand(6, 2) + 0.5).bfloat16(), random(rows, 2 * GROUP, seed=rows), random(6, seed=1)
    numbers = torch.tensor(FOUR_BITS)[torch.stack([weight >> 4, weight & 15], dim=2).flatten(1).long()]
    matrix = rotated(numbers * scale.float().repeat_interleave(GROUP, dim=1))
    product = turned_product(weight, scale, bias)

    torch.testing.assert_close(product(x), x @ matrix.T + bias, atol=1e-2, rtol=1e-4)
    assert torch.equal(product(x[-1:])[0], product(x)[-1])


def test_products_with_four_bits() -> None:
    """The numbers that bitsandbytes dequantizes, with the first of two in the high half of a byte."""
    from bitsandbytes.functional import get_4bit_type, quantize_4bit

    from prelim.kernels.product import nf4_product

    weight, bias = random(6, 2 * NF4_BLOCK) * torch.logspace(-2, 2, 6)[:, None], random(6, seed=1)
    packed, state = quantize_4bit(weight, blocksize=NF4_BLOCK, quant_type="nf4")
    code = get_4bit_type("nf4", device="cpu")
    numbers = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], dim=1).flatten().long()
    matrix = (code[numbers].view(-1, NF4_BLOCK) * state.absmax[:, None]).view(weight.shape)
    product = nf4_product(packed.flatten(), state.absmax, code, (6, 2 * NF4_BLOCK), bias)
    for rows in (1, 5, 25):
        x = random(rows, 2 * NF4_BLOCK, seed=rows)
        wanted = x.double() @ matrix.double().T + bias
        assert ((product(x).double() - wanted).abs() / (matrix.norm(dim=1) + 1)).max() < 1e-5


def test_what_this_processor_can_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights whose inputs are whole groups; integers where there is an instruction for them."""
    assert (GROUP, NF4_BLOCK) == (64, 64)
    monkeypatch.setattr("prelim.kernels.unavailable", lambda: None)
    floats, integers = (torch.float32, torch.bfloat16), (torch.int8, torch.uint8)
    for one in instructions.KNOWN.values():
        monkeypatch.setattr("prelim.kernels.instructions.chosen", lambda one=one: one)
        for dtype in (*floats, *integers):
            has = dtype in floats or one.integers is not None
            assert fits(torch.zeros(3, 128, dtype=dtype)) == has, one.name
            assert fits(torch.zeros(3, 96, dtype=dtype)) == (has and dtype == torch.uint8), "two of four bits in one"
            assert not fits(torch.zeros(3, 80, dtype=dtype))
            assert not fits(torch.zeros(3, 128, dtype=dtype, device="meta"))
        assert not fits(torch.zeros(3, 128, dtype=torch.float64))
    monkeypatch.setattr("prelim.kernels.instructions.chosen", lambda: None)
    assert not fits(torch.zeros(3, 128))
    monkeypatch.setattr("prelim.kernels.instructions.chosen", lambda: one)
    monkeypatch.setattr("prelim.kernels.unavailable", lambda: "no")
    assert not fits(torch.zeros(3, 128))
