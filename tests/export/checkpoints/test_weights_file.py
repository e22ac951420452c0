"""Weights written one tensor at a time give the same file as the safetensors library."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prelim.decoders.weights_file import LazyTensor, read_weights, write_weights
from prelim.errors import ArchiveError

WEIGHTS = {
    "a.weight": torch.randn(3, 5),
    "a.transposed": torch.randn(4, 6).t(),
    "b.half": torch.randn(7).bfloat16(),
    "b.other_half": torch.randn(2, 3).half(),
    "c.steps": torch.tensor(3),
    "d.empty": torch.zeros(0, 4),
    "é.codes": torch.arange(5, dtype=torch.uint8),
    "f.int8": torch.arange(-3, 3, dtype=torch.int8),
    "g.mask": torch.tensor([True, False]),
}


def test_contents_equal_those_of_save_file(tmp_path: Path) -> None:
    """Names, dtypes, shapes and values equal those of a file written by safetensors.save_file."""
    save_file({name: tensor.contiguous() for name, tensor in WEIGHTS.items()}, tmp_path / "theirs.safetensors")

    write_weights(tmp_path / "ours.safetensors", WEIGHTS)

    ours, theirs = load_file(tmp_path / "ours.safetensors"), load_file(tmp_path / "theirs.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=0)
    with safe_open(tmp_path / "ours.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(WEIGHTS)


def test_lazy_tensors_are_made_one_at_a_time(tmp_path: Path) -> None:
    """Each lazy tensor is materialized once, just before it is written."""
    made: list[int] = []

    def lazy(value: int) -> LazyTensor:
        def make() -> torch.Tensor:
            made.append(value)
            return torch.full((2, 2), float(value))

        return LazyTensor((2, 2), torch.float32, make)

    write_weights(tmp_path / "lazy.safetensors", {f"{i}": lazy(i) for i in range(3)})

    assert made == [0, 1, 2]
    assert read_weights(tmp_path / "lazy.safetensors")["2"].tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_lazy_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    """A lazy tensor with another shape or dtype than declared is an error with its name."""
    wrong = LazyTensor((2,), torch.float32, lambda: torch.zeros(3))

    with pytest.raises(ArchiveError, match=r"layer\.weight was materialized as torch.float32 \(3,\)"):
        write_weights(tmp_path / "wrong.safetensors", {"layer.weight": wrong})
