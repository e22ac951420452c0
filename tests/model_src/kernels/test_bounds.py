"""What kernels read and write: up to the end of the memory, and at the limits of float32."""

import ctypes
import mmap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prelim.kernels import GROUP, NF4_BLOCK, fits, instructions, rotated, unavailable
from tests.model_src.kernels import test_cross_attention_step, test_kernels
from tests.model_src.kernels.test_rows import each

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=f"nothing can be compiled here: {unavailable()}")

DTYPES = (torch.float32, torch.bfloat16, torch.int8)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(outputs: int, inputs: int, dtype: torch.dtype) -> Tensor:
    """Random weights."""
    return normal(outputs, inputs).mul(40).clamp(-127, 127).to(dtype)


def units(weight: Tensor) -> Tensor:
    """Scales of 1."""
    return torch.ones(len(weight), weight.shape[1] // GROUP, dtype=torch.bfloat16)


@pytest.fixture
def last_bytes() -> Iterator[Callable[[Tensor], Tensor]]:
    """Copies a tensor to the end of pages, or to their start; the process may not read before and after them."""
    held = []
    protect = ctypes.CDLL(None, use_errno=True).mprotect

    def copy(tensor: Tensor, *, at_start: bool = False) -> Tensor:
        if not tensor.numel():
            return tensor
        data = tensor.contiguous().view(torch.uint8).flatten()
        size = -(-len(data) // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = mmap.mmap(-1, size + 2 * mmap.PAGESIZE)
        first = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        for guard in (first, first + mmap.PAGESIZE + size):
            assert protect(ctypes.c_void_p(guard), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        held.append(pages)
        offset = mmap.PAGESIZE + (0 if at_start else size - len(data))
        copied = torch.frombuffer(pages, dtype=torch.uint8, count=len(data), offset=offset)
        copied.copy_(data)
        return copied.view(tensor.dtype).view(tensor.shape)

    yield copy
    held.clear()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs", [1, 3, 4, 70])
def test_stored_weights_are_read_where_they_are(
    dtype: torch.dtype, outputs: int, last_bytes: Callable[[Tensor], Tensor]
) -> None:
    """Without a copy, so that processes share those of a file, and no byte after the last."""
    from prelim.kernels.product import stored_product

    weight, x = last_bytes(whole(outputs, GROUP, dtype)), normal(26, GROUP)
    scale = last_bytes(units(weight)) if dtype == torch.int8 else None
    product = stored_product(weight, scale, None)
    read = product.weights
    if scale is not None:
        read, of_scales = (ctypes.c_int64 * 2).from_address(product.weights)
        assert of_scales == scale.data_ptr()
    assert read == weight.data_ptr()
    assert (product(x) - x @ weight.float().T).abs().max() < 1e-2
    assert stored_product(weight[:, :20], scale, None).inputs == 32


@pytest.fixture
def fenced(last_bytes: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets a module allocate its tensors at the ends of pages, or at their starts."""

    def fence(module: Any, *, at_start: bool = False) -> None:
        def make(name: str, *sizes: Any, **options: Any) -> Tensor:
            return last_bytes(getattr(torch, name)(*sizes, **options), at_start=at_start)

        made = {name: partial(make, name) for name in ("empty", "zeros", "ones")}
        monkeypatch.setattr(module, "torch", SimpleNamespace(**{**vars(torch), **made}))

    return fence


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_row_after_the_last_is_read(
    dtype: torch.dtype, last_bytes: Callable[[Tensor], Tensor], fenced: Callable[..., None]
) -> None:
    """Rows of every number, scales of integers, and packed weights may lie at the ends of their pages."""
    from prelim.kernels import product

    fenced(product)
    weight = whole(70, 2 * GROUP, dtype)
    scale = units(weight) if dtype == torch.int8 else None
    products = [product.stored_product(weight, scale, None)]
    if fits(weight):
        numbers = product.packed_product(weight, scale, None).numbers
        packed = last_bytes(product.pack(weight, scale, numbers.instructions))
        products.append(product.Product(numbers, (70, 2 * GROUP), packed.data_ptr(), (packed,), None))
    for rows in range(1, 8):
        x = normal(rows, 2 * GROUP, seed=rows)
        for multiply in products:
            read = rotated(x) if multiply.numbers.kind == "int8" else x
            wanted = read @ weight.float().T
            assert ((multiply(x) - wanted).norm() / wanted.norm()) < 0.02


@pytest.mark.parametrize("at_start", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "int8_dynamic"])
def test_steps_have_room_for_all_that_they_write(precision: str, at_start: bool, fenced: Callable[..., None]) -> None:
    """Whatever a phase leaves for the next one lies in memory that was allocated for it."""
    from prelim.kernels import causal_lm_step, cross_attention_step, product

    if precision == "int8_dynamic" and not fits(torch.zeros(1, GROUP, dtype=torch.int8)):
        pytest.skip("this processor does not multiply integers")
    for module in (causal_lm_step, cross_attention_step, product):
        fenced(module, at_start=at_start)
    for dimensions in (test_kernels.LLAMA, test_kernels.WIDE, test_kernels.PHI, test_kernels.GEMMA3):
        test_kernels.check(dimensions, precision, slots=2, rows=3)
    for kind in ("keras", "bert"):
        test_cross_attention_step.check(kind, precision, (2, 3, 7), 2e-6 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize(("things", "threads"), [(0, 3), (1, 1), (7, 1), (2, 3), (7, 3), (64, 7)])
def test_threads_share_all_things(monkeypatch: pytest.MonkeyPatch, things: int, threads: int) -> None:
    """Each thing is one thread's, and no thread has two more than another."""
    from prelim.kernels import product

    monkeypatch.setattr(product, "_team_size", lambda: threads)
    shares = []
    for thread in range(threads):
        monkeypatch.setattr(product, "_thread_number", lambda thread=thread: thread)
        shares.append(range(*product.share.py_func(things)))
    assert [thing for share in shares for thing in share] == [*range(things)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_weights_of_four_bits_are_read_where_they_are(last_bytes: Callable[[Tensor], Tensor]) -> None:
    """Neither numbers nor scales nor values are read beyond their ends, or copied."""
    from prelim.kernels.product import nf4_product

    packed = last_bytes(torch.arange(8 * NF4_BLOCK // 2).to(torch.uint8))
    absmax, code = last_bytes(torch.arange(1.0, 9)), torch.linspace(-1, 1, 16)
    product = nf4_product(packed, absmax, code, (8, NF4_BLOCK), None)
    numbers = torch.stack([packed >> 4, packed & 15], dim=1).flatten().long()
    matrix = code[numbers].view(8, NF4_BLOCK) * absmax[:, None]
    x = normal(2, NF4_BLOCK)
    torch.testing.assert_close(product(x), x @ matrix.T, atol=1e-4, rtol=1e-5)
    assert product._held[0].data_ptr() == packed.data_ptr()


def test_attention_reads_no_further_than_its_keys(last_bytes: Callable[[Tensor], Tensor]) -> None:
    """Keys, values, queries and mask may lie at the ends of their pages."""
    from prelim.kernels.attention import attend

    query, key, value = (last_bytes(normal(2, 4, 3, 16, seed=i)) for i in range(3))
    mask = last_bytes(torch.tensor([1, 0, 1], dtype=torch.bool).expand(2, 1, 3, 3).contiguous())
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(attend(query, key, value, mask), wanted, atol=1e-5, rtol=1e-5)


def test_exponential_at_its_limits() -> None:
    """Relative error 3e-7 wherever it is not 0 or infinite, which it is beyond -86.6 and 88.7228."""
    inside = torch.cat([torch.linspace(-86.6, 88.7228, 30001), torch.tensor([-86.5, -86.6, 88.7, 88.7228, 0.0])])
    outside = torch.tensor([-86.7, -87.0, -87.5, -88.0, -1e3, 88.73, 89.0, 90.0, 1e3])
    for x, wanted in ((inside, inside.double().exp()), (outside, (outside > 0) * torch.inf * torch.ones(9))):
        y = torch.empty_like(x)
        each("exponential")(x.numpy(), y.numpy())
        if x is inside:
            assert ((y.double() - wanted) / wanted).abs().max() < 3e-7
        else:
            assert torch.equal(y, torch.where(outside > 0, torch.inf, 0.0))


def test_integers_by_hand() -> None:
    """The largest of a group is 127, halves go to the even neighbor, and what is not finite leaves zeros."""
    from prelim.kernels.rows import quantize

    x = torch.zeros(4 * GROUP)
    # Rotated once more, these are exact.
    x[:5] = torch.tensor([127.0, -127.0, 0.5, 1.5, -3.25])
    x[GROUP : GROUP + 2] = torch.tensor([-2.0, 1.0])
    x = rotated(x)
    x[2 * GROUP + 3 : 2 * GROUP + 5] = torch.tensor([torch.inf, 5])
    x[3 * GROUP + 3 : 3 * GROUP + 5] = torch.tensor([torch.nan, 5])
    values, scales, corrections = np.ones(4 * GROUP, np.int8), np.zeros(4, np.float32), np.zeros(4, np.int32)
    quantize(x.numpy(), values, scales, corrections)
    groups = values.reshape(4, GROUP)
    assert groups[0, :6].tolist() == [127, -127, 0, 2, -3, 0]
    assert groups[1, :3].tolist() == [-127, 64, 0]
    assert not groups[2:].any()
    assert scales[:3].tolist() == pytest.approx([1, 2 / 127, np.inf])
    assert np.isnan(scales[3])
    assert corrections.tolist() == [-128 * -1, -128 * -63, 0, 0]


@pytest.mark.parametrize(
    ("machine", "features", "avx", "reason"),
    [
        ("x86_64", {"avx2", "fma"}, 1, None),
        ("x86_64", {"avx2", "fma", "avx512f", "avx512vnni"}, 1, None),
        ("x86_64", {"avx2"}, 1, "the processor has neither AVX2 with FMA nor NEON"),
        ("x86_64", {"avx2", "fma"}, 0, "NUMBA_ENABLE_AVX is set to 0; unset it"),
        ("aarch64", {"neon"}, 0, None),
        ("arm64", {"neon", "dotprod"}, 0, None),
    ],
)
def test_where_nothing_can_be_compiled(
    monkeypatch: pytest.MonkeyPatch, machine: str, features: set[str], avx: int, reason: str | None
) -> None:
    """AVX2 or NEON is needed, and the threads of PyTorch; asked once."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("prelim.kernels.instructions._features", lambda: features)
    monkeypatch.setattr("prelim.kernels.instructions.chosen", instructions.chosen.__wrapped__)
    monkeypatch.setattr("numba.core.config.ENABLE_AVX", avx)
    assert unavailable.__wrapped__() == reason
    monkeypatch.setattr("prelim.kernels.OPENMP", Path("/nowhere/libgomp.so.1"))
    without = unavailable.__wrapped__()
    assert without == (reason if reason and "neither" in reason else "PyTorch has no libgomp.so.1")


@pytest.mark.parametrize("threads", [1, 3])
def test_the_team_has_as_many_threads_as_pytorch(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Asked at every call."""
    from prelim.kernels import team

    calls: list[tuple[int, ...]] = []
    monkeypatch.setattr(team, "_parallel", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    team.run(SimpleNamespace(address=5), 6)
    assert calls == [(5, 6, threads, 0)]
