"""Kernels for every kind of processor: the same integers, the same bits where nothing is rounded otherwise."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prelim.kernels import FOUR_BITS, GROUP, dot, family, packs, unavailable
from prelim.kernels import instructions as module
from prelim.kernels.dot import BLOCK, max_rows
from prelim.kernels.instructions import FORCED_BY, KNOWN, Instructions, available, restricted_to
from tests.model_src.kernels.machine_code import KINDS, assembly, products

HERE = available()
INPUTS = 3 * GROUP


def operands(kind: str, rows: int) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    """Weights, their scales, rows, the scales of these, and the weights in float64 without their scales."""
    generator = torch.Generator().manual_seed(rows)
    if kind in ("fp32", "bf16"):
        weight, x = (torch.randn(n, INPUTS, generator=generator).to(KINDS[kind]) for n in (BLOCK, rows))
        return weight, None, x, torch.ones(rows, INPUTS // GROUP), weight.double()
    x = torch.randint(-127, 128, (rows, INPUTS), dtype=torch.int8, generator=generator)
    # Where the sum of two products would not fit into 16 bits, were it not for the limits of both.
    x[0] = 127
    # Halves and ones, so that float32 holds all sums exactly.
    scales, scale = (torch.randint(1, 3, (n, 3), generator=generator) / 2 for n in (rows, BLOCK))
    weight = torch.randint(-127, 128, (BLOCK, INPUTS), dtype=torch.int8, generator=generator)
    weight[:4] = torch.tensor([127, -127, 0, -128], dtype=torch.int8)[:, None]
    if kind == "int8":
        return weight, scale.bfloat16(), x, scales, weight.double()
    halves = torch.randint(0, 256, (BLOCK, INPUTS // 2), dtype=torch.uint8, generator=generator)
    numbers = torch.tensor(FOUR_BITS)[torch.stack([halves >> 4, halves & 15], dim=2).flatten(1).long()]
    return halves, scale.bfloat16(), x, scales, numbers.double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("instructions", HERE, ids=lambda one: one.name)
def test_products(instructions: Instructions, kind: str) -> None:
    """The exact products of integers and of float32 rows, in as many rows as one call takes."""
    rows = max_rows(kind, instructions)
    weight, scale, x, scales, matrix = operands(kind, rows)
    got = products(instructions, weight, scale, x, scales)

    by_group = (x.double().view(rows, 1, -1, GROUP) * matrix.view(1, BLOCK, -1, GROUP)).sum(3)
    units = 1.0 if scale is None else scales.double()[:, None] * scale.double()
    wanted = (by_group * units).sum(2)
    if scale is None:
        torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=1e-4)
    else:
        assert torch.equal(got.double(), wanted)


@pytest.mark.parametrize("outputs", [BLOCK, 5 * BLOCK + 7])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_packed_a_few_outputs_at_a_time(kind: str, outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same bytes as all at once: of a large table there is no other copy."""
    weight, scale, *_ = operands(kind, 1)
    weight = weight.repeat(6, 1)[:outputs] * torch.arange(outputs)[:, None].to(weight.dtype)
    scale = None if scale is None else scale.repeat(6, 1)[:outputs]
    for one in KNOWN.values():
        if kind == "int8" and one.integers is None:
            continue
        whole = dot.pack(weight, scale, one)
        with monkeypatch.context() as changed:
            changed.setattr(dot, "_AT_ONCE", 2 * BLOCK * weight.shape[1])
            assert torch.equal(dot.pack(weight, scale, one), whole)


@pytest.mark.parametrize("kind", ["int4", "int8", "fp32"])
def test_all_processors_give_the_same_bits(kind: str) -> None:
    """So that an archive decodes the same integers everywhere; of bfloat16, instructions round otherwise."""
    weight, scale, x, scales, _ = operands(kind, 3)
    scales, scale = scales / 3, None if scale is None else scale / 3
    wanted = products(HERE[0], weight, scale, x, scales)
    for other in HERE[1:]:
        assert torch.equal(products(other, weight, scale, x, scales), wanted), other.name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("instructions", HERE, ids=lambda one: one.name)
def test_rows_are_independent(instructions: Instructions, kind: str) -> None:
    """A row's sums are the same bits alone and with others."""
    rows = max_rows(kind, instructions)
    weight, scale, x, scales, _ = operands(kind, rows)
    together = products(instructions, weight, scale, x, scales)
    for row in range(rows):
        alone = products(instructions, weight, scale, x[row : row + 1], scales[row : row + 1])
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize(
    "kind", ["int8", "bf16", *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in ("int4", "fp32"))]
)
def test_whole_products(on_processor: Callable[[str], None], kind: str) -> None:
    """With AVX2, for every number of rows: those of the instructions here, in all bits but for bfloat16."""
    from prelim.kernels.product import packed_product

    weight, scale, x, _, _ = operands(kind, 10)
    here = packed_product(weight[:50], None if scale is None else scale[:50], None)
    on_processor("avx2")
    there = packed_product(weight[:50], None if scale is None else scale[:50], None)
    assert there.numbers.name == f"{kind} avx2"
    for rows in range(1, 11):
        wanted, got = here(x[:rows].float()), there(x[:rows].float())
        if kind == "bf16":
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-4)
        else:
            assert torch.equal(got, wanted), rows


@pytest.mark.parametrize(
    ("forced", "name"), [(None, "avx2"), ("", "avx2"), ("avx2", "avx2"), ("avx512", None), ("sse", None)]
)
def test_instructions_can_be_forced(monkeypatch: pytest.MonkeyPatch, forced: str | None, name: str | None) -> None:
    """Only those that the processor has; for the rest, steps are not compiled, and the reason lists what it has."""
    monkeypatch.setattr(module, "_features", lambda: {"avx2", "fma", "neon"})
    monkeypatch.setattr(module, "chosen", module.chosen.__wrapped__)
    if forced is None:
        monkeypatch.delenv(FORCED_BY, raising=False)
    else:
        monkeypatch.setenv(FORCED_BY, forced)
    chosen = module.chosen()
    assert (None if chosen is None else chosen.name) == name
    assert packs(torch.int8) == (name is not None)
    assert (family() == "without compiled steps") == (name is None)
    if name is None:
        assert unavailable.__wrapped__() == f"{FORCED_BY} is {forced!r}; this processor has avx2, neon"


def test_all_code_is_for_the_forced_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is forced runs where there is nothing better; the best needs no restriction."""
    best, *others = HERE
    for one in HERE:
        monkeypatch.setattr(module, "chosen", lambda one=one: one)
        assert restricted_to() == (None if one is best else one.least)
    monkeypatch.setattr(module, "chosen", lambda: None)
    assert restricted_to() is None
    for one in others:
        monkeypatch.setattr(module, "chosen", lambda one=one: one)
        monkeypatch.setattr("numba.core.config.CPU_NAME", one.least[0])
        monkeypatch.setattr("numba.core.config.CPU_FEATURES", one.least[1])
        assert unavailable.__wrapped__() is None, one.name
    monkeypatch.setattr("numba.core.config.CPU_NAME", "generic")
    assert "NUMBA_CPU_NAME" in str(unavailable.__wrapped__())


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "found"),
    [
        ("x86_64", "flags : asimd asimddp", set()),
        ("aarch64", "Features : fp asimd evtstrm", {"neon"}),
        ("aarch64", "Features : fp asimd asimddp", {"neon", "dotprod"}),
    ],
)
def test_linux_names_of_arm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str, cpuinfo: str, found: set[str]
) -> None:
    """LLVM does not report the dot product there."""
    (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_features", lambda: {"sse": True, "avx2": False})
    assert module._features() == found | {"sse"}


PRIMITIVES = {
    "avx512_bf16": {"int8": r"vpdpbusd.*zmm", "bf16": r"vdpbf16ps.*zmm"},
    "avx512_vnni": {"int8": r"vpdpbusd.*zmm", "bf16": r"vfmadd231ps.*zmm"},
    "avx512": {"int8": r"vpmaddubsw.*zmm", "bf16": r"vfmadd231ps.*zmm"},
    "avx_vnni": {"int8": r"\{vex\}\s+vpdpbusd.*ymm", "bf16": r"vfmadd231ps.*ymm"},
    "avx2": {"int8": r"vpmaddubsw.*ymm", "bf16": r"vfmadd231ps.*ymm"},
    "neon_dotprod": {"int8": r"sdot\s+v\d+\.4s, v\d+\.16b", "bf16": r"fmla\s+v\d+\.4s"},
    "neon": {"bf16": r"fmla\s+v\d+\.4s"},
}


@pytest.mark.parametrize("name", KNOWN)
def test_code_has_the_instruction(name: str) -> None:
    """For every processor, also those that are not here: one for each row and register of each of four steps."""
    for kind, pattern in PRIMITIVES[name].items():
        code = assembly(kind, KNOWN[name], 3)
        per_step = 2 if kind == "bf16" and "vdpbf16ps" not in pattern else 1
        assert len(re.findall(pattern, code)) == 4 * 3 * 4 * per_step, kind
