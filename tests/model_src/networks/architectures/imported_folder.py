"""A folder of `transformers` on its way to reports: imported, served, and the pixels that its network gets."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from export.import_checkpoint import import_checkpoint
from prelim.images.preprocess import preprocess
from prelim.images.radiograph import read_radiograph
from prelim.networks.model_folder import read_model_folder, read_network
from prelim.report_generator import ReportGenerator
from tests.archives import write_files


def import_folder(system: str, checkpoint: Path) -> Path:
    """The model folder of a checkpoint with its tokenizer, next to it."""
    folder = checkpoint.parent / "model"
    import_checkpoint(system, [checkpoint], checkpoint, folder, "small")
    return folder


def package(folder: Path) -> Path:
    """The files of the archive of a model folder, next to it."""
    archive = folder.parent / "archive"
    archive.mkdir()
    write_files(read_model_folder(folder), archive)
    return archive


def serve(folder: Path, slots: int = 3) -> ReportGenerator:
    """The archive of a model folder, served."""
    return ReportGenerator.load(package(folder), slots=slots)


def pixel_values(folder: Path, images: Sequence[bytes]) -> Tensor:
    """What the network of a model folder gets of files, shape (images, channels, side, side)."""
    config = read_network(folder)[0]
    arrays = [preprocess(read_radiograph(image, config.input), config.preprocess) for image in images]
    return torch.stack([torch.from_numpy(array) for array in arrays])
