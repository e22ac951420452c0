"""Reads the tensors of files written by `torch.save`, without executing code from them."""

import argparse
import collections
import datetime
import decimal
import fractions
import pathlib
import pickle
import re
import types
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.checkpoints.file_kind import check_whole, check_zip
from export.checkpoints.other_forms import check_keys
from prelim.errors import ArchiveError

CONTAINERS = ("model_state_dict", "state_dict", "model_state", "model", "module", "net", "network", "weights", "params")
"""Keys under which training scripts store the weights, next to optimizer and epoch. Others are found by what they hold;
where a file has several sets, the first of these is taken."""


class _Values(dict[str, Any]):
    """Holds the values of a class of a library that need not be installed."""


def _new_dict(_factory: Any = None) -> dict[Any, Any]:
    """Replaces `defaultdict`: the restricted unpickler fills only plain dictionaries."""
    return {}


def _new_list(values: Any = (), _maxlen: Any = None) -> list[Any]:
    """Replaces `deque`: the restricted unpickler fills only plain lists."""
    return list(values)


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
    *(argparse.Namespace, types.SimpleNamespace, collections.Counter, uuid.UUID),
    *(datetime.date, datetime.time, datetime.datetime, datetime.timedelta, datetime.timezone),
    *(pathlib.PurePosixPath, pathlib.PosixPath, pathlib.PureWindowsPath, decimal.Decimal, fractions.Fraction),
    *(bool, int, float, str, bytes, list, tuple, dict, frozenset, range, slice, complex, np.dtype, np.ndarray),
    (_new_dict, "collections.defaultdict"),
    (_new_list, "collections.deque"),
    (pathlib.PureWindowsPath, "pathlib.WindowsPath"),
    (Ellipsis, "builtins.Ellipsis"),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.zeros(1).__reduce__()[0], "numpy.core.multiarray._reconstruct"),
    (np.zeros(1).__reduce__()[0], "numpy._core.multiarray._reconstruct"),
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdgFDU"),
    *((_Values, name) for name in _STAND_INS),
]
"""Classes and functions that a checkpoint may contain next to its weights; to make one runs no code of the file."""

_UNREAD = re.compile(r"WeightsUnpickler error:\s*Can only [^\n]*, but got <class '(?P<type>[\w.]+)'>")
_GLOBAL = re.compile(r"GLOBAL (?P<name>[\w.]+)")
_CHUNK = 2**24


def read_torch_file(path: Path, assume: Callable[[str], None] | None = None) -> dict[str, Tensor]:
    """Read a state_dict, memory-mapped if the format allows it.

    assume  : called with the name of the weights that are taken, where a file has more than one set (a moving average)
    returns : published key -> tensor

    Raises ArchiveError if the file is not a checkpoint, or contains anything but tensors and harmless values.
    """
    contents = _load(path)
    check_keys(path, _names(contents))
    while isinstance(contents, Mapping) and (sets := _sets_of_weights(contents)):
        inner = next((key for key in CONTAINERS if key in sets), sets[0])
        rest = ", ".join(repr(key) for key in sets if key != inner)
        if rest and inner not in CONTAINERS:
            raise ArchiveError(
                f"{path} has weights under {inner!r}, {rest}, and none of these is a usual name; save one of them alone"
            )
        if rest and assume is not None:
            assume(f"the weights under {inner!r} of {path.name}; it has others under {rest}")
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
    for key, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_meta:
            kind = "has no values (meta device)" if tensor.is_meta else f"is stored as {tensor.layout}"
            raise ArchiveError(f"{path}: {key} {kind}; save it as a dense tensor")
    # Modules may store values that are not tensors, such as the state of a quantized layer.
    if any(not isinstance(contents[key], int | float | str | bool | None | torch.dtype | torch.Size) for key in others):
        found = ", ".join(f"{key!r} ({type(contents[key]).__name__})" for key in others[:3])
        raise ArchiveError(f"{path} has other values than tensors in its state_dict: {found}")
    return tensors


def _sets_of_weights(contents: Mapping[Any, Any]) -> list[str]:
    """The keys under which a checkpoint has a state_dict, or a checkpoint of its own; none if it is a state_dict."""
    if any(isinstance(value, Tensor) for value in contents.values()):
        return [key for key in CONTAINERS if isinstance(contents.get(key), Mapping)]
    return sorted(key for key, value in contents.items() if isinstance(key, str) and _has_weights(value))


def _has_weights(contents: Any) -> bool:
    """Whether a value is a state_dict, or contains one; an optimizer's state and single numbers do not count."""
    if not isinstance(contents, Mapping) or "param_groups" in contents:
        return False
    named = {key: value for key, value in contents.items() if isinstance(key, str)}
    return any((isinstance(value, Tensor) and value.numel() > 1) or _has_weights(value) for value in named.values())


def _names(contents: Any, prefix: str = "") -> Iterator[str]:
    """The keys of all tensors in a file, with those of the mappings around them."""
    for key, value in contents.items() if isinstance(contents, Mapping) else ():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}"
        else:
            yield from _names(value, f"{prefix}{key}.")


def _load(path: Path) -> Any:
    check_whole(path)
    check_zip(path)
    _check_sums(path)
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            # TorchScript archives are refused; a warning would only advise how to run them.
            warnings.simplefilter("ignore")
            # Files of the format before PyTorch 1.6, which is not a zip file, cannot be mapped. A path that ends in
            # .safetensors would be read as one, whatever the file is.
            if zipfile.is_zipfile(path) and path.suffix != ".safetensors":
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, IndexError, EOFError) as error:
        raise ArchiveError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from error
    except pickle.UnpicklingError as error:
        raise ArchiveError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from error


def _check_sums(path: Path) -> None:
    """Refuse a damaged zip file, whose tensors `torch.load` would map as they are.

    Raises ArchiveError naming the entry whose checksum is not that of its contents.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.serialization.set_crc32_options(False) leaves checksums out.
            for entry in archive.infolist():
                if entry.CRC == 0:
                    continue
                with archive.open(entry) as contents:
                    while contents.read(_CHUNK):
                        pass
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise ArchiveError(f"{path} is damaged: {error}; download it again") from error


def _reason(error: Exception) -> str:
    """The cause, without PyTorch's advice to load the file with its code."""
    text = str(error)
    alone = "save the weights alone, with torch.save(model.state_dict(), PATH)"
    if match := _GLOBAL.search(text):
        reason = (
            f"it contains the Python object {match['name']}, which is not loaded because that could run code; {alone}"
        )
    elif "Unsupported operand" in text:
        reason = f"it was pickled with protocol 4 or later, and only 2 and 3 are read without running code; {alone}"
    elif "TorchScript" in text:
        reason = f"it is a TorchScript archive; {alone}"
    elif match := _UNREAD.search(text):
        reason = f"a value next to the weights needs {match['type']}, which is not built without running code; {alone}"
    elif "legacy .tar" in text or isinstance(error, pickle.UnpicklingError | EOFError):
        reason = "it is not a file of torch.save, or it is damaged"
    else:
        reason = text.split("\n", maxsplit=1)[0].split("weights_only", maxsplit=1)[0].strip()
    return reason or type(error).__name__
