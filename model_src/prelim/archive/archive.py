"""The files of one archive, written and read side by side.

An archive is what `export` makes from a model folder and the only thing that the server reads. Every file is
named with its sha256 in model.yaml, and there is no pickle among them.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from prelim.archive.model_config import ModelConfig
from prelim.decoders import empty_decoder
from prelim.decoders.decoder import Decoder
from prelim.decoders.packed import pack
from prelim.decoders.weights_file import load_weights, read_weights
from prelim.errors import ArchiveError

CONFIG = "model.yaml"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
VISION = "vision.onnx"
CONNECTOR = "connector.onnx"
DECODER = "decoder.safetensors"
ARCHIVE_FILES = (VISION, CONNECTOR, DECODER, TOKENIZER)
INSIGHT_SUFFIX = ".insight.onnx"
"""Of the file of each of an architecture's `insights`: image_features -> what is answered under that name."""


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


def load_decoder(archive: Archive, device: str = "cpu", *, packed: bool = False) -> Decoder[Any]:
    """The archive's decoder, in evaluation mode, its weights memory-mapped.

    packed : a CPU multiplies with a packed copy of them, which is faster and not shared with other processes
    """
    path = archive.folder / DECODER
    try:
        decoder = empty_decoder(archive.config.decoder, archive.config.precision)
    except (TypeError, ValueError) as error:
        raise ArchiveError(f"{archive.folder / CONFIG}, section decoder: {error}") from error
    load_weights(decoder, read_weights(path), path)
    decoder = decoder.eval().requires_grad_(False).to(device)
    return cast("Decoder[Any]", pack(decoder) if packed else decoder)


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
