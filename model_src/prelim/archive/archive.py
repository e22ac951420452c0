"""The files of one archive, written and read side by side.

An archive is what `export` makes from a model folder and the only thing that the server reads. Every file is
named with its sha256 in manifest.json, and there is no pickle among them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from prelim.archive.encoder_config import AUTO
from prelim.archive.manifest import Manifest, read_manifest
from prelim.archive.mar import unpack_mar
from prelim.archive.model_config import ModelConfig
from prelim.decoders import empty_decoder
from prelim.decoders.captured import captured
from prelim.decoders.decoder import Decoder
from prelim.decoders.packed import pack
from prelim.decoders.weights_file import load_weights, read_weights
from prelim.errors import ArchiveError, reason_of

CONFIG = "model.yaml"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
GATE = "gate.safetensors"
"""Of models that have one, see encoding.gate; in model folders and archives."""
CONFIDENCE = "confidence.json"
"""Of models that are calibrated, see prelim.generation.confidence; in model folders and archives."""
DRAFTS = "drafts.safetensors"
"""Of models that were packaged with known reports, see prelim.generation.drafts; in archives."""
VISION = "vision.onnx"
CONNECTOR = "connector.onnx"
DECODER = "decoder.safetensors"
ARCHIVE_FILES = (VISION, CONNECTOR, DECODER, TOKENIZER)
INSIGHT_SUFFIX = ".insight.onnx"
"""Of the file of each of an architecture's `insights`: image_features -> what is answered under that name."""


@dataclass(frozen=True)
class Archive:
    """An archive whose files are those that its manifest names.

    folder : where it is unpacked
    config : its model.yaml
    files  : sha256 of every file by name
    sha256 : of manifest.json, and so of every file, code included
    """

    folder: Path
    config: ModelConfig
    files: Mapping[str, str]
    sha256: str


def read_archive(folder: Path) -> Archive:
    """Read and check an unpacked archive.

    Raises ArchiveError naming the file that is missing, unknown, or not the one that was packed.
    """
    return _archive(folder, read_manifest(folder))


def unpack_archive(path: Path, folder: Path) -> Archive:
    """Unpack a .mar into an empty folder, checking it on the way.

    Raises ArchiveError as `read_archive` does.
    """
    return _archive(folder, unpack_mar(path, folder))


def _archive(folder: Path, manifest: Manifest) -> Archive:
    for name in (CONFIG, *ARCHIVE_FILES):
        if name not in manifest.files:
            raise ArchiveError(f"{folder} lacks {name}; build the archive with `make archive`")
    config = ModelConfig.read(folder / CONFIG)
    of_encoder = {f"encoder.{name}": precision for name, precision in config.served_encoder.precisions.items()}
    for name, precision in {"precision": config.precision, **of_encoder}.items():
        if precision == AUTO:
            raise ArchiveError(f"{folder / CONFIG}: {name} is {AUTO}; an archive has one, which packaging chooses")
    return Archive(folder, config, manifest.files, manifest.sha256)


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
    return captured(cast("Decoder[Any]", pack(decoder, shared=not packed)))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder or an archive. Raises ArchiveError when the file cannot be read."""
    path = folder / TOKENIZER
    try:
        return Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # `tokenizers` raises bare Exception for a damaged file
        raise ArchiveError(f"{path} cannot be read: {reason_of(error)}") from error
