"""Reads the tensors of published checkpoints, without running anything that is in them."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.keras_archive import read_keras
from model_src.archive import read_weights
from model_src.errors import ArchiveError

CONTAINERS = ("model_state_dict", "state_dict", "model")
"""Keys under which training scripts put the weights beside optimizer and epoch."""

WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "saved_model.keras",
)
"""The files of a folder that hold its weights, as `transformers`, `peft` and XREPORT name them."""

SETTINGS = ("config.json", "adapter_config.json")
"""Files that say of the weights beside them what their shapes do not."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, memory-mapped where its format allows it.

    path : .pth, .pt or .bin of `torch.save`, .safetensors, .keras, or a folder with one of these, sharded or not
    returns : published key -> tensor, without the prefix `module.` of DataParallel

    Raises ArchiveError when the file is no checkpoint, or has more in it than tensors and plain values.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors":
        return read_weights(path)
    if path.suffix == ".keras":
        return read_keras(path)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError, EOFError) as error:
        raise ArchiveError(f"{path} cannot be read as a checkpoint: {error}") from error
    while isinstance(contents, Mapping) and (inner := next((c for c in CONTAINERS if c in contents), None)):
        contents = contents[inner]
    if not isinstance(contents, Mapping) or not all(isinstance(value, Tensor) for value in contents.values()):
        raise ArchiveError(f"{path} holds no state_dict; expected key -> tensor, or that under {CONTAINERS}")
    wrapped = any(key.startswith("module.") for key in contents)
    return {key.removeprefix("module.") if wrapped else key: value for key, value in contents.items()}


def read_settings(path: Path) -> list[dict[str, Any]]:
    """What config.json and adapter_config.json say, of a folder of weights or given as files by themselves.

    Raises ArchiveError when one of them is no JSON object.
    """
    files = [path / name for name in SETTINGS if (path / name).is_file()] if path.is_dir() else [path]
    found = []
    for file in files:
        try:
            contents = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArchiveError(f"{file} cannot be read as JSON: {error}") from error
        if not isinstance(contents, dict):
            raise ArchiveError(f"{file} holds {type(contents).__name__}; expected an object")
        found.append(contents)
    return found


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder that `save_pretrained` or a training wrote."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return read_checkpoint(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            tensors: dict[str, Tensor] = {}
            for shard in shards:
                tensors |= read_checkpoint(folder / shard)
            return tensors
    raise ArchiveError(f"{folder} has no weights: expected one of {', '.join(WEIGHTS)}, or an index of the first two")
