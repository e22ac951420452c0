"""Reads the tensors of files written by `torch.save`, without executing code from them."""

import argparse
import collections
import datetime
import pathlib
import pickle
import re
import types
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prelim.errors import ArchiveError

CONTAINERS = ("model_state_dict", "state_dict", "model_state", "model", "module", "net", "network", "weights")
"""Keys under which training scripts store the weights, next to optimizer and epoch."""


class _Values(dict[str, Any]):
    """Holds the values of a class of a library that need not be installed."""


_STAND_INS = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "ml_collections.config_dict.config_dict.ConfigDict",
    "yacs.config.CfgNode",
)
"""Settings of training scripts, read as `_Values`."""

_HARMLESS: list[Any] = [
    *(argparse.Namespace, types.SimpleNamespace, collections.Counter, datetime.datetime, datetime.timedelta),
    *(pathlib.PurePosixPath, pathlib.PosixPath, np.dtype, np.ndarray, slice, complex),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.zeros(1).__reduce__()[0], "numpy.core.multiarray._reconstruct"),
    (np.zeros(1).__reduce__()[0], "numpy._core.multiarray._reconstruct"),
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdgFDU"),
    *((_Values, name) for name in _STAND_INS),
]
"""Classes and functions that a checkpoint may contain next to its weights; to make one runs no code of the file."""

_GLOBAL = re.compile(r"GLOBAL (?P<name>[\w.]+)")
SMALLEST = 10
"""Bytes of the smallest file of tensors."""


def read_torch_file(path: Path, assume: Callable[[str], None] | None = None) -> dict[str, Tensor]:
    """Read a state_dict, memory-mapped if the format allows it.

    assume  : is told which weights are taken where a file has more than one set, such as those of a moving average
    returns : published key -> tensor

    Raises ArchiveError if the file is not a checkpoint, or contains anything but tensors and harmless values.
    """
    contents = _load(path)
    while isinstance(contents, Mapping) and (inner := next((c for c in CONTAINERS if _holds(contents, c)), None)):
        others = sorted(str(key) for key, value in contents.items() if key != inner and _has_weights(value))
        if others and assume is not None:
            assume(f"the weights under {inner!r} of {path.name}; it has others under {', '.join(map(repr, others))}")
        contents = contents[inner]
    tensors = (
        {key: value for key, value in contents.items() if isinstance(value, Tensor)}
        if isinstance(contents, Mapping)
        else {}
    )
    others = [key for key in contents if key not in tensors] if isinstance(contents, Mapping) else []
    if not tensors or not all(isinstance(key, str) for key in tensors):
        raise ArchiveError(
            f"{path} does not contain a state_dict; expected key -> tensor, optionally under one of "
            f"{', '.join(CONTAINERS)}"
        )
    # Modules may store values that are not tensors, such as the state of a quantized layer.
    if any(not isinstance(contents[key], int | float | str | bool | None | torch.dtype | torch.Size) for key in others):
        found = ", ".join(f"{key!r} ({type(contents[key]).__name__})" for key in others[:3])
        raise ArchiveError(f"{path} has other values than tensors in its state_dict: {found}")
    return tensors


def _holds(contents: Mapping[Any, Any], key: str) -> bool:
    return isinstance(contents.get(key), Mapping)


def _has_weights(contents: Any) -> bool:
    """Whether a value is a state_dict, or contains one as a checkpoint does; an optimizer's state has other keys."""
    if not isinstance(contents, Mapping):
        return False
    tensors = any(isinstance(key, str) and isinstance(value, Tensor) for key, value in contents.items())
    return tensors or any(_has_weights(contents[key]) for key in CONTAINERS if key in contents)


def _load(path: Path) -> Any:
    check_whole(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            # TorchScript archives are refused; a warning would only advise how to run them.
            warnings.simplefilter("ignore")
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                # The format before PyTorch 1.6, which is not a zip file, cannot be mapped.
                if "mmap can only be used" not in str(error):
                    raise
                return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError, EOFError) as error:
        raise ArchiveError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from error
    except pickle.UnpicklingError as error:
        raise ArchiveError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The cause, without PyTorch's advice to load the file with its code."""
    text = str(error)
    if match := _GLOBAL.search(text):
        return (
            f"it contains the Python object {match['name']}, which is not loaded because that could run code; save the "
            "weights alone, with torch.save(model.state_dict(), PATH)"
        )
    if "TorchScript" in text:
        return "it is a TorchScript archive; save the weights alone, with torch.save(model.state_dict(), PATH)"
    if isinstance(error, pickle.UnpicklingError | EOFError):
        return "it is not a file of torch.save, or it is damaged"
    return text.split("\n", maxsplit=1)[0].split("weights_only", maxsplit=1)[0].strip() or type(error).__name__


def check_whole(path: Path, smallest: int = SMALLEST) -> None:
    """Refuse what is not a published file by its first and last bytes, with the true reason.

    smallest : bytes that it has at least

    Raises ArchiveError for an empty file, a pointer of Git LFS, a page of a web site, and a zip file that is cut off.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(512)
            file.seek(max(0, size - (1 << 16) - 22))
            end = file.read()
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror}") from error
    text = start.lstrip()
    if size == 0:
        raise ArchiveError(f"{path} is empty; download it again")
    if text.startswith(b"version https://git-lfs.github.com"):
        raise ArchiveError(f"{path} is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`")
    if text[:64].lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ArchiveError(f"{path} is a web page, not a checkpoint; download the file itself")
    if start.startswith(b"PK\x03\x04") and b"PK\x05\x06" not in end:
        raise ArchiveError(f"{path} is cut off: its zip directory, which is at the end, is missing; download it again")
    if size < smallest:
        raise ArchiveError(f"{path} has {size} bytes, which cannot be a checkpoint")
