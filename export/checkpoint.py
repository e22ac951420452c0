"""Reads the tensors of published checkpoints, without running anything that is in them."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from model_src.archive import read_weights
from model_src.errors import ArchiveError

CONTAINERS = ("model_state_dict", "state_dict", "model")
"""Keys under which training scripts put the weights beside optimizer and epoch."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, memory-mapped where its format allows it.

    path : .pth, .pt or .bin of `torch.save`, .safetensors, or a folder with either, sharded or not
    returns : published key -> tensor, without the prefix `module.` of DataParallel

    Raises ArchiveError when the file is no checkpoint, or has more in it than tensors and plain values.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors":
        return read_weights(path)
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


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """The weights of a `save_pretrained` folder."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return read_checkpoint(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            tensors: dict[str, Tensor] = {}
            for shard in shards:
                tensors |= read_checkpoint(folder / shard)
            return tensors
    raise ArchiveError(f"{folder} has no model.safetensors, pytorch_model.bin or an index of either")
