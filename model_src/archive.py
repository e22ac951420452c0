"""The files of one archive, written and read side by side.

An archive is what `export` makes from a model folder and the only thing that the server reads. Every file is
named with its sha256 in model.yaml, and there is no pickle among them.
"""

import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm

from model_src.decoders import build_decoder
from model_src.decoders.decoder import Decoder
from model_src.errors import ArchiveError
from model_src.model_config import ModelConfig

CONFIG = "model.yaml"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
VISION = "vision.onnx"
CONNECTOR = "connector.onnx"
DECODER = "decoder.safetensors"
ARCHIVE_FILES = (VISION, CONNECTOR, DECODER, TOKENIZER)
INSIGHT_SUFFIX = ".insight.onnx"
"""Of the file of each of an architecture's `insights`: image_features -> what is answered under that name."""

PROGRESS_FROM = 1_000_000_000
"""Bytes from which writing weights shows how far it is."""

_SAFETENSORS_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is made when it is written, so that not all of a large model need be in memory.

    make : gives it, of this shape and dtype
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]


@dataclass(frozen=True)
class Archive:
    """An archive whose files are those that its model.yaml names.

    folder : where it is unpacked
    config : its model.yaml
    sha256 : of model.yaml, and so of everything that it names
    """

    folder: Path
    config: ModelConfig
    sha256: str


def write_archive_config(folder: Path, config: ModelConfig) -> None:
    """Write model.yaml with the sha256 of all the other files of the folder, which must be there already."""
    others = sorted({file.name for file in folder.iterdir()} - {CONFIG, *ARCHIVE_FILES})
    files = {name: sha256_of(folder / name) for name in (*ARCHIVE_FILES, *others)}
    dataclasses.replace(config, files=files).write(folder / CONFIG)


def read_archive(folder: Path) -> Archive:
    """Read and check an unpacked archive.

    Raises ArchiveError naming the file that is missing or that is not the one that was packed.
    """
    config = ModelConfig.read(folder / CONFIG)
    for name in ARCHIVE_FILES:
        if name not in config.files:
            raise ArchiveError(f"{folder / CONFIG}: files lacks {name}; build the archive with `make archive`")
    for name, expected in config.files.items():
        path = folder / name
        if not path.is_file():
            raise ArchiveError(f"{path} is missing; build the archive again with `make archive`")
        found = sha256_of(path)
        if found != expected:
            raise ArchiveError(f"{path} has sha256 {found}, model.yaml says {expected}; build the archive again")
    return Archive(folder, config, sha256_of(folder / CONFIG))


def write_weights(path: Path, weights: Mapping[str, Tensor | LazyTensor]) -> None:
    """Write tensors as safetensors, one after another: of lazy or memory-mapped ones only one is in memory."""
    # The widest elements first, so that each tensor lies where its elements can be read in place.
    names = sorted(weights, key=lambda name: (-weights[name].dtype.itemsize, name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        tensor = weights[name]
        start, end = end, end + math.prod(tensor.shape) * tensor.dtype.itemsize
        kind = _SAFETENSORS_TYPES[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    hidden = None if end >= PROGRESS_FROM else True  # None shows the bar on a terminal only
    bar = tqdm(total=end, unit="B", unit_scale=True, desc=path.name, leave=False, disable=hidden)
    with path.open("wb") as file, bar:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in names:
            tensor = weights[name]
            made = tensor.make() if isinstance(tensor, LazyTensor) else tensor
            if (made.shape, made.dtype) != (tensor.shape, tensor.dtype):
                raise ArchiveError(f"{name} was made as {made.dtype} {tuple(made.shape)}, announced otherwise")
            contiguous = made.detach().cpu().contiguous()
            bar.update(file.write(contiguous.reshape(-1).view(torch.uint8).numpy().data))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, memory-mapped: processes that read the same file share its pages.

    Raises ArchiveError when the file cannot be read.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArchiveError(f"{path} cannot be read: {error}") from error


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: Path) -> None:
    """Give a module its weights without a copy. Raises ArchiveError as `check_weights` does."""
    check_weights(module, weights, source)
    module.load_state_dict(weights, assign=True)


def check_weights(module: nn.Module, weights: Mapping[str, Tensor | LazyTensor], source: Path) -> None:
    """Raise ArchiveError that lists missing, unknown and mis-shaped keys."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    faults = [f"{name} is missing" for name in expected.keys() - found.keys()]
    faults += [f"{name} is unknown" for name in found.keys() - expected.keys()]
    faults += [
        f"{name} has shape {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    if faults:
        raise ArchiveError(f"{source} does not fit model.yaml: " + "; ".join(sorted(faults)))


def load_decoder(archive: Archive, device: str = "cpu") -> Decoder[Any]:
    """The archive's decoder, in evaluation mode, its weights memory-mapped."""
    path = archive.folder / DECODER
    try:
        # On the meta device nothing is allocated: the mapped weights take the place of the empty ones.
        with torch.device("meta"):
            decoder = build_decoder(archive.config.decoder)
    except (TypeError, ValueError) as error:
        raise ArchiveError(f"{archive.folder / CONFIG}, section decoder: {error}") from error
    load_weights(decoder, read_weights(path), path)
    return cast("Decoder[Any]", decoder.eval().requires_grad_(False).to(device))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder or an archive. Raises ArchiveError when the file cannot be read."""
    path = folder / TOKENIZER
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # `tokenizers` raises bare Exception for a damaged file
        raise ArchiveError(f"{path} cannot be read: {error}") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
