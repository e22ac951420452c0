"""Reads the tensors of published checkpoints, without running anything that is in them."""

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
"""Keys under which training scripts put the weights beside optimizer and epoch."""

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
"""The files of a folder that hold its weights, as `transformers`, `peft`, `open_clip`, XREPORT and system 0 name them;
the first that is there counts, also in shards with an index."""

JSON = ".json"
INDEX = ".index.json"
"""Ends the name of the file that says in which shard each weight is."""

GGUF = ".gguf"
"""Ends the name of a file with weights, settings and tokenizer in one."""

SETTINGS = ("config.json", "adapter_config.json")
"""Files that say of the weights beside them what their shapes do not."""


def read_checkpoint(path: Path) -> dict[str, Tensor | LazyTensor]:
    """All tensors of a checkpoint, memory-mapped where its format allows it.

    path : .pth, .pt or .bin of `torch.save`, .safetensors, .keras, .gguf with a Llama, or a folder with one of the
           others, sharded or not
    returns : published key -> tensor, without the prefix `module.` of DataParallel

    Raises ArchiveError when the file is no checkpoint, or has more in it than tensors and plain values.
    """
    if path.is_dir():
        files = [file for file in _weights_files(path) if not file.name.endswith(INDEX)]
        return {key: tensor for file in files for key, tensor in read_checkpoint(file).items()}
    if path.suffix == ".safetensors":
        return {**read_weights(path)}
    if path.suffix == ".keras":
        return {**read_keras(path)}
    if path.suffix == GGUF:
        # The library behind it takes seconds to import, which other checkpoints need not wait for.
        from export.checkpoints.gguf_archive import read_gguf

        return {**read_gguf(path)}
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

    Of a GGUF file what it says in their place; other files of weights say nothing.

    Raises ArchiveError when one of them is no JSON object.
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
            raise ArchiveError(f"{file} holds {type(contents).__name__}; expected an object")
        found.append(contents)
    return found


def weights_among(names: Collection[str]) -> list[str]:
    """Of the names of a folder's files those of its weights: one, or an index and its shards; none if it has none."""
    for name in WEIGHTS:
        if name in names:
            return [name]
        if name + INDEX in names:
            stem, ending = name.rsplit(".", 1)
            shard = re.compile(rf"{stem}-\d+-of-\d+\.{ending}")
            return [name + INDEX, *sorted(other for other in names if shard.fullmatch(other))]
    return []


def checkpoint_files(path: Path) -> list[Path]:
    """The files that are read of a checkpoint: the file itself, or of a folder its weights and what is said of them.

    Raises ArchiveError when a folder has no weights, or an index of shards cannot be read.
    """
    if not path.is_dir():
        return [path]
    return [*_weights_files(path), *(path / name for name in SETTINGS if (path / name).is_file())]


def _weights_files(folder: Path) -> list[Path]:
    names = weights_among({file.name for file in folder.iterdir()})
    if not names:
        raise ArchiveError(f"{folder} has no weights: expected one of {', '.join(WEIGHTS)}, or an index of one")
    first = folder / names[0]
    if not first.name.endswith(INDEX):
        return [first]
    # Shards of another save may lie beside those of this index.
    shards = read_settings(first)[0].get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ArchiveError(f"{first} has no weight_map; expected key -> name of the shard")
    return [first, *(folder / Path(shard).name for shard in sorted(set(shards.values())))]
