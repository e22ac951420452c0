"""Files that are not a checkpoint, or a damaged one, are refused for the true reason."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from export.checkpoints.checkpoint import read_checkpoint
from prelim.errors import ArchiveError
from tests.export.test_import_checkpoint import published
from tests.export.test_ordinary_checkpoints import State

__all__ = ["published"]


class Values(dict[str, Any]):
    """A class of a training script."""


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def truncate(path: Path, share: float = 0.6) -> None:
    """Cut off the end of a file."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def cut_safetensors(path: Path, state: State, share: float = 0.6) -> None:
    """Save as safetensors, and cut off the end."""
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    truncate(path, share)


def cut_zip(path: Path, state: State) -> None:
    """Save by torch.save, and cut off the end."""
    torch.save(state, path)
    truncate(path)


def cut_old(path: Path, state: State) -> None:
    """Save in the old format, and cut off the end."""
    torch.save(state, path, _use_new_zipfile_serialization=False)
    truncate(path)


def flip_middle(path: Path, state: State) -> None:
    """Save by torch.save, and change one bit of a tensor."""
    torch.save(state, path)
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 0x40
    path.write_bytes(contents)


def containing(contents: Any) -> Callable[[Path, State], object]:
    """Save other contents."""
    return lambda path, _: torch.save(contents, path)


def reading(text: str) -> Callable[[Path, State], object]:
    """Write a text instead of weights."""
    return lambda path, _: path.write_text(text)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
FAULTS: dict[str, tuple[str, Callable[[Path, State], object], str]] = {
    "empty": ("a.pth", reading(""), "is empty"),
    "empty safetensors": ("a.safetensors", reading(""), "is empty"),
    "pointer": ("a.bin", reading(POINTER), "pointer of Git LFS"),
    "pointer to safetensors": ("a.safetensors", reading(POINTER), "pointer of Git LFS"),
    "pointer to keras": ("a.keras", reading(POINTER), "pointer of Git LFS"),
    "web page": ("a.pth", reading("<!DOCTYPE html><title>Sign in</title>"), "web page"),
    "cut zip": ("a.pth", cut_zip, "is cut off"),
    "cut safetensors": ("a.safetensors", cut_safetensors, "is cut off"),
    "cut header": ("a.safetensors", lambda path, state: cut_safetensors(path, state, 0.0001), "is cut off"),
    "cut old format": ("a.pth", cut_old, "damaged|cannot be read"),
    "module": (
        "a.pth",
        containing(nn.Linear(2, 2)),
        r"torch\.nn\.modules\.linear\.Linear, which is not loaded because that could run code",
    ),
    "own class": ("a.pth", containing({"args": Values(lr=1)}), r"\.Values, which is not loaded"),
    "flipped bit": ("a.pth", flip_middle, "is damaged: Bad CRC-32 for file"),
    "zeros": ("a.pth", lambda path, _: path.write_bytes(bytes(1000)), "not a file of torch.save, or it is damaged"),
    "protocol 4": (
        "a.pth",
        lambda path, state: torch.save(state, path, pickle_protocol=4),
        "pickled with protocol 4 or later",
    ),
    "protocol 5, old format": (
        "a.pth",
        lambda path, state: torch.save(state, path, pickle_protocol=5, _use_new_zipfile_serialization=False),
        "pickled with protocol 4 or later",
    ),
    "sparse": ("a.pth", containing({"a": torch.eye(2).to_sparse()}), "a is stored as torch.sparse_coo"),
    "meta": ("a.pth", containing({"a": torch.zeros(2, device="meta")}), "a has no values"),
    "objects": (
        "a.pth",
        containing({"model": {"a": torch.ones(1)}, "x": np.array([{}, None], dtype=object)}),
        "a value next to the weights needs numpy",
    ),
    "no weights": ("a.pth", containing({"epoch": 3}), "does not contain a state_dict"),
    "script": (
        "a.pt",
        lambda path, _: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path),  # type: ignore[no-untyped-call]
        "TorchScript",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_faulty_files_are_refused_for_the_true_reason(fault: str, published: State, tmp_path: Path) -> None:
    """The message says what the file is, names it, and never advises to load it with its code."""
    name, write, reason = FAULTS[fault]
    write(tmp_path / name, published)

    with pytest.raises(ArchiveError, match=reason) as raised:
        read_checkpoint(tmp_path / name)

    assert name in str(raised.value)
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("new_format", [True, False])
def test_planted_code_does_not_run(new_format: bool, tmp_path: Path) -> None:
    """What a pickle would call is named and not called."""
    torch.save({"a": Planted(tmp_path / "ran")}, tmp_path / "a.pth", _use_new_zipfile_serialization=new_format)

    with pytest.raises(ArchiveError, match=r"mkdir, which is not loaded because that could run code"):
        read_checkpoint(tmp_path / "a.pth")

    assert not (tmp_path / "ran").exists()
