"""Locates and reads the weights of published checkpoints without executing code from them."""

import re
import struct
from collections.abc import Callable, Collection
from pathlib import Path

from torch import Tensor

from export.checkpoints.file_kind import check_binary, check_whole
from export.checkpoints.keras_archive import SUFFIX, read_keras
from export.checkpoints.other_forms import check_keys, check_name, no_weights
from export.checkpoints.settings import GGUF, INDEX, JSON, KERAS, SETTINGS, read_json
from export.checkpoints.torch_file import read_torch_file
from prelim.decoders.weights_file import LazyTensor, is_storable, read_weights
from prelim.errors import ArchiveError

WEIGHTS = (
    "model.safetensors",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    KERAS,
    "final_model.pth",
)
"""Weights files of a folder, as named by `transformers`, `peft`, `open_clip`, XREPORT and system 0. The first existing
one is used; it may also be sharded, with an index."""


_LONGEST_HEADER = 100_000_000


def read_checkpoint(path: Path, assume: Callable[[str], None] | None = None) -> dict[str, Tensor | LazyTensor]:
    """Read all tensors of a checkpoint, memory-mapped if the format allows it.

    path : a .pth, .pt, .ckpt or .bin file of `torch.save`, .safetensors, .keras, a .gguf file with a Llama, a folder
           with one of these except .gguf, sharded or not, or the index of its shards
    assume : see read_torch_file
    returns : published key -> tensor

    Raises ArchiveError if the file is not a checkpoint, or contains anything but tensors and plain values.
    """
    if path.is_dir() or path.name.endswith(INDEX):
        files = _weights_files(path)
        indices = [file for file in files if file.name.endswith(INDEX)]
        # A shard may have a stale copy of a weight that the index finds in another one.
        places = read_json(indices[0])["weight_map"] if indices else {}
        return {
            key: tensor
            for file in files
            if file not in indices
            for key, tensor in read_checkpoint(file, assume).items()
            if places.get(key, file.name) == file.name
        }
    if path.suffix == JSON:
        return {}
    check_name(path)
    check_whole(path)
    check_binary(path)
    if _is_safetensors(path):
        _check_length(path)
        found: dict[str, Tensor | LazyTensor] = {**read_weights(path)}
    elif path.suffix == SUFFIX:
        found = {**read_keras(path)}
    elif path.suffix == GGUF:
        # Imported here because its library takes seconds to import.
        from export.checkpoints.gguf_archive import read_gguf

        found = {**read_gguf(path)}
    else:
        found = {**read_torch_file(path, assume)}
    check_keys(path, found)
    for key, tensor in found.items():
        if not is_storable(tensor.dtype):
            raise ArchiveError(
                f"{path}: {key} has the dtype {str(tensor.dtype).removeprefix('torch.')}, which needs scales that are "
                "not applied here; give the weights in 16 or 32 bits"
            )
    return found


def _is_safetensors(path: Path) -> bool:
    """Whether a file is safetensors by its first bytes, or by its name where these are not those of torch.save."""
    with path.open("rb") as file:
        start = file.read(9)
    length = struct.unpack("<Q", start[:8])[0] if len(start) == 9 else 0
    if start[8:] == b"{" and length < _LONGEST_HEADER:
        return True
    return path.suffix == ".safetensors" and not start.startswith(
        (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")
    )


def _check_length(path: Path) -> None:
    """Raise ArchiveError if a safetensors file is shorter than its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = file.read(length) if length < size else b""
    ends = [int(end) for end in re.findall(rb'"data_offsets"\s*:\s*\[\s*\d+\s*,\s*(\d+)\s*\]', header)]
    whole = 8 + length + max(ends, default=0)
    # No header has more than 100 MB: the first bytes are then not its length.
    if whole > size and length < _LONGEST_HEADER:
        raise ArchiveError(f"{path} is cut off: {size} bytes of {whole} or more; download it again")


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
    if path.is_file() and not path.name.endswith(INDEX):
        return [path]
    folder = path if path.is_dir() else path.parent
    return [*_weights_files(path), *(folder / name for name in SETTINGS if (folder / name).is_file())]


def _weights_files(path: Path) -> list[Path]:
    """The weights of a folder, or those that an index of shards lists; the index first."""
    first = path
    if path.is_dir():
        there = {file.name for file in path.iterdir()}
        names = find_weights(there)
        if not names:
            raise no_weights(path, there, WEIGHTS)
        first = path / names[0]
    if not first.name.endswith(INDEX):
        return [first]
    # The folder may also contain shards that do not belong to this index.
    shards = read_json(first).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ArchiveError(f"{first} has no weight_map; expected key -> shard name")
    files = [first.parent / Path(shard).name for shard in sorted(set(shards.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ArchiveError(f"{first} lists shards that are missing: {', '.join(missing)}")
    return [first, *files]
