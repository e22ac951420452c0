"""Reads the tensors of published checkpoints without executing code from them."""

import json
import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export.checkpoints.keras_archive import read_keras
from prelim.decoders.weights_file import LazyTensor, read_weights
from prelim.errors import ArchiveError

CONTAINERS = ("model_state_dict", "state_dict", "model")
"""Keys under which training scripts store the weights, next to optimizer and epoch."""

WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "saved_model.keras",
    "final_model.pth",
)
"""Weights files of a folder, as named by `transformers`, `peft`, `open_clip`, XREPORT and system 0. The first existing
one is used; it may also be sharded, with an index."""

JSON = ".json"
INDEX = ".index.json"
"""Suffix of the file that maps each weight to its shard."""

GGUF = ".gguf"
"""Suffix of a file with weights, settings and tokenizer in one."""

SETTINGS = ("config.json", "adapter_config.json")
"""Files with settings that cannot be inferred from the shapes of the weights."""


def read_checkpoint(path: Path) -> dict[str, Tensor | LazyTensor]:
    """Read all tensors of a checkpoint, memory-mapped if the format allows it.

    path : a .pth, .pt or .bin file of `torch.save`, .safetensors, .keras, a .gguf file with a Llama, or a folder with
           one of these except .gguf, sharded or not
    returns : published key -> tensor, without the prefix `module.` of DataParallel

    Raises ArchiveError if the file is not a checkpoint, or contains anything but tensors and plain values.
    """
    if path.is_dir():
        files = [file for file in _weights_files(path) if not file.name.endswith(INDEX)]
        return {key: tensor for file in files for key, tensor in read_checkpoint(file).items()}
    if path.suffix == ".safetensors":
        return {**read_weights(path)}
    if path.suffix == ".keras":
        return {**read_keras(path)}
    if path.suffix == GGUF:
        # Imported here because its library takes seconds to import.
        from export.checkpoints.gguf_archive import read_gguf

        return {**read_gguf(path)}
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError, EOFError) as error:
        raise ArchiveError(f"{path} cannot be read as a checkpoint: {error}") from error
    while isinstance(contents, Mapping) and (inner := next((c for c in CONTAINERS if c in contents), None)):
        contents = contents[inner]
    if not isinstance(contents, Mapping) or not all(isinstance(value, Tensor) for value in contents.values()):
        raise ArchiveError(
            f"{path} does not contain a state_dict; expected key -> tensor, optionally under one of {CONTAINERS}"
        )
    wrapped = any(key.startswith("module.") for key in contents)
    return {key.removeprefix("module.") if wrapped else key: value for key, value in contents.items()}


def read_settings(path: Path) -> list[dict[str, Any]]:
    """Read config.json and adapter_config.json of a folder, or one JSON file.

    A GGUF file gives the equivalent settings from its metadata; other weights files have none.

    Raises ArchiveError if one of them is not a JSON object.
    """
    if path.suffix == GGUF:
        from export.checkpoints.gguf_archive import read_gguf_settings

        return [read_gguf_settings(path)]
    if path.is_file() and path.suffix != JSON:
        return []
    files = [path / name for name in SETTINGS if (path / name).is_file()] if path.is_dir() else [path]
    found = []
    for file in files:
        try:
            contents = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArchiveError(f"{file} cannot be read as JSON: {error}") from error
        if not isinstance(contents, dict):
            raise ArchiveError(f"{file} contains {type(contents).__name__}; expected an object")
        found.append(contents)
    return found


def find_weights(names: Collection[str]) -> list[str]:
    """Pick the weights files from the file names of a folder: one, or an index and its shards; empty if none."""
    for name in WEIGHTS:
        if name in names:
            return [name]
        if name + INDEX in names:
            stem, ending = name.rsplit(".", 1)
            shard = re.compile(rf"{stem}-\d+-of-\d+\.{ending}")
            return [name + INDEX, *sorted(other for other in names if shard.fullmatch(other))]
    return []


def checkpoint_files(path: Path) -> list[Path]:
    """The files of a checkpoint to read: the file itself, or the weights and settings of a folder.

    Raises ArchiveError if a folder has no weights, or its index of shards cannot be read.
    """
    if not path.is_dir():
        return [path]
    return [*_weights_files(path), *(path / name for name in SETTINGS if (path / name).is_file())]


def _weights_files(folder: Path) -> list[Path]:
    names = find_weights({file.name for file in folder.iterdir()})
    if not names:
        raise ArchiveError(f"{folder} has no weights: expected one of {', '.join(WEIGHTS)}, or its index")
    first = folder / names[0]
    if not first.name.endswith(INDEX):
        return [first]
    # The folder may also contain shards that do not belong to this index.
    shards = read_settings(first)[0].get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ArchiveError(f"{first} has no weight_map; expected key -> shard name")
    return [first, *(folder / Path(shard).name for shard in sorted(set(shards.values())))]
