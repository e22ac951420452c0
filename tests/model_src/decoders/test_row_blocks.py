"""Tensors that are made a few rows at a time: the same numbers, in less memory."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from export.footprint import _LiveMemory
from prelim.decoders import weights_file
from prelim.decoders.four_bits import Int4DynamicLinear
from prelim.decoders.precision import _as
from prelim.decoders.quantized import Int8DynamicLinear, Int8Linear, NF4Linear
from prelim.decoders.row_blocks import by_rows
from prelim.decoders.weights_file import LazyTensor, Weights, materialize, read_weights, row_blocks, write_weights
from prelim.errors import ArchiveError

ROWS, INPUTS = 1000, 192
STORED: dict[str, Any] = {
    kind.__name__: kind.stored for kind in (Int8Linear, Int8DynamicLinear, Int4DynamicLinear, NF4Linear)
} | {"bfloat16": lambda weight, _: {"": _as(weight, torch.bfloat16)}}


def table(seed: int = 0) -> torch.Tensor:
    """Rows of numbers of different sizes."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, INPUTS, generator=draw) * torch.logspace(-3, 2, ROWS)[:, None]


def materialize_all(weights: Weights) -> dict[str, torch.Tensor]:
    """All of them."""
    return {name: materialize(tensor) for name, tensor in weights.items()}


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("kind", STORED)
def test_blocks_give_the_same_numbers(
    kind: str, rounded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory and in a file, whether the other tensors of a layer are asked for before or after the large one."""
    x = table(1)
    moments = x.T @ x if rounded else None
    whole = materialize_all(STORED[kind](table(), moments))
    monkeypatch.setattr(weights_file, "BLOCK", 128 * INPUTS)

    weights = STORED[kind](LazyTensor((ROWS, INPUTS), torch.float32, table), moments)
    backwards = {name: materialize(tensor) for name, tensor in reversed(weights.items())}
    write_weights(tmp_path / "w", STORED[kind](table(), moments))

    for found in (materialize_all(weights), backwards, read_weights(tmp_path / "w")):
        assert found.keys() == whole.keys()
        for name, tensor in whole.items():
            # The last bit of a rotated number may be another where a product has other numbers of rows.
            unlike = (found[name].view(torch.uint8) != tensor.view(torch.uint8)).float().mean()
            assert found[name].shape == tensor.shape
            assert unlike <= (2e-3 if "Dynamic" in kind else 0)


@pytest.mark.parametrize("kind", STORED)
def test_few_rows_are_in_memory(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written of a table of 16 bits takes some blocks of it in 32, not the whole."""
    monkeypatch.setattr(weights_file, "BLOCK", 64 * INPUTS)
    weights = STORED[kind](table().bfloat16(), None)

    # What the places of sixteen numbers are looked up with has 64 bits.
    with _LiveMemory() as memory:
        write_weights(tmp_path / "w", weights)

    assert memory.peak < ROWS * INPUTS * 4
    assert memory.peak < 16 * 64 * INPUTS * 4 + ROWS * INPUTS // 16


def test_what_was_read_leaves_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of the file that weights are made of, while others or the rest of a large one are still to be written."""
    write_weights(tmp_path / "old", {f"{i}": torch.full((1 << 20,), float(i)) for i in range(8)})
    mapped = read_weights(tmp_path / "old")
    monkeypatch.setattr(weights_file, "_LET_GO_AFTER", 1 << 19)
    monkeypatch.setattr(weights_file, "BLOCK", 1 << 18)
    seen: list[int] = []

    def watched(rows: torch.Tensor) -> tuple[torch.Tensor]:
        seen.append(resident(tmp_path / "old"))
        return (rows.half(),)

    weights = {name: by_rows(one, watched, {"": (tuple(one.shape), torch.half)})[""] for name, one in mapped.items()}
    write_weights(tmp_path / "new", weights, list(mapped.values()))

    assert len(seen) == 8 * 4
    assert max(seen) <= 3 << 20
    assert {name: float(one[-1]) for name, one in read_weights(tmp_path / "new").items()} == {
        f"{i}": float(i) for i in range(8)
    }


def resident(file: Path) -> int:
    """Bytes of a mapped file in this process's memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            inside = bool(rest) and rest[-1] == os.fspath(file)
        elif inside and name == "Rss:":
            total += 1024 * int(rest[0])
    return total


@pytest.mark.parametrize(
    ("shape", "sizes"), [((), [()]), ((0, 4), [(0, 4)]), ((300,), [(300,)]), ((300, 4), [(128, 4)] * 2 + [(44, 4)])]
)
def test_blocks_are_whole_multiples_of_64_rows(
    shape: tuple[int, ...], sizes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Single numbers and empty tensors are one block; a table has the rows that fit, at least 64."""
    monkeypatch.setattr(weights_file, "BLOCK", 600)
    assert [tuple(block.shape) for block in row_blocks(torch.zeros(shape))] == sizes
    assert len(list(row_blocks(torch.zeros(130, 1000)))) == 3


@pytest.mark.parametrize(
    "wrong", [(torch.zeros(64, 3),), (torch.zeros(64, 4, dtype=torch.half),), (torch.zeros(1, 4),)]
)
def test_blocks_of_another_shape_are_refused(wrong: tuple[torch.Tensor], tmp_path: Path) -> None:
    """As whole tensors are: by the name."""
    weights = by_rows(torch.zeros(64, 4), lambda _: wrong, {"a": ((64, 4), torch.float32)})
    with pytest.raises(ArchiveError, match=r"a was materialized as .*, declared otherwise"):
        write_weights(tmp_path / "w", weights)
