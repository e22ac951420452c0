"""Image files through a model's vision encoder, read as the server reads them."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from prelim.archive.archive import CONFIDENCE, GATE, VISION, Archive, read_archive, unpack_archive
from prelim.archive.encoder_config import AUTO
from prelim.archive.model_config import ModelConfig
from prelim.encoding.gate import mean_features
from prelim.encoding.network_session import ImageSession, open_vision
from prelim.errors import ArchiveError, InputError
from prelim.images.preprocess import preprocess
from prelim.images.radiograph import InputConfig, Radiograph
from training.datasets.formats.feature_json import read_embedding
from training.datasets.pictures import read_picture
from training.datasets.study import DatasetError

_ALIKE = 0.5
"""Least cosine of the features of one encoder in two precisions."""


class ServedEncoder:
    """A vision encoder as it is served.

    slots : how many images are taken together
    frame : of Source

    Raises ArchiveError for a model with pictures of several sizes.
    """

    def __init__(
        self, vision: nn.Module, config: ModelConfig, slots: int = 16, device: str = "cpu", frame: int = 0
    ) -> None:
        config.preprocess.check_one_size("evaluation and its gate")
        self._vision = vision.to(device)
        self._config, self._slots, self._device, self._frame = config, slots, device, frame

    @torch.inference_mode()
    def encode(self, images: Sequence[Path], doing: str = "encoding") -> Iterator[Tensor]:
        """image_features of one batch after the other, shape (batch, num_tokens, width) or (batch, width).

        images : image files, or all files with features (see feature_json)

        Raises DatasetError naming a file that cannot be read or is refused.
        """
        config = self._config
        paths = iter(tqdm(images, desc=doing, unit="image", leave=False))
        while chunk := list(islice(paths, self._slots)):
            if chunk[0].suffix == ".json":
                yield torch.from_numpy(np.stack([read_embedding(path) for path in chunk])).to(self._device)
                continue
            pictures = [_read(path, config.input, self._frame) for path in chunk]
            pixel_values = np.stack([preprocess(picture, config.preprocess) for picture in pictures])
            yield self._vision(torch.from_numpy(pixel_values).to(self._device))

    def means(self, images: Sequence[Path], doing: str = "encoding") -> np.ndarray:
        """Mean image features, float32, shape (images, width)."""
        return np.concatenate([mean_features(features.cpu().numpy()) for features in self.encode(images, doing)])


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The archive of a .mar file, or of the folder that one is unpacked in.

    Raises ArchiveError naming what is wrong.
    """
    if path.is_dir():
        yield read_archive(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield unpack_archive(path, Path(folder))


class ArchivedVision(nn.Module):
    """The vision encoder of an archive, run as it is served."""

    def __init__(self, session: ImageSession) -> None:
        super().__init__()
        self._session = session

    def forward(self, pixel_values: Tensor) -> Tensor:
        """image_features of each image alone."""
        return self._session.run(pixel_values.cpu())


def served_vision(config: ModelConfig, vision: nn.Module, archive: Path | None) -> nn.Module:
    """What gives the features that a model's gate and calibration are fitted to.

    vision  : of the model folder, in fp32
    archive : of the model, where its encoder is served in another precision

    Raises ArchiveError where that is missing, or is of another model.
    """
    encoder = config.served_encoder
    if encoder.precision == AUTO:
        raise ArchiveError(f"encoder.precision is {AUTO}; gates and calibrations are of one precision: name it")
    if not encoder.of_features:
        return vision
    if archive is None:
        raise ArchiveError(
            f"the encoder is served in {encoder}, whose features only an archive gives: package the model without "
            f"{GATE} and {CONFIDENCE}, pass it as --archive, and package the model again"
        )
    with open_archive(archive) as opened:
        path, found = opened.folder / VISION, opened.config.served_encoder
        if found.of_features != encoder.of_features:
            raise ArchiveError(f"--archive {archive} has its encoder in {found}, model.yaml in {encoder}")
        session = open_vision(path, encoder, "cpu", torch.get_num_threads(), packed=True)
    archived, p = ArchivedVision(session), config.preprocess
    images = torch.linspace(-1, 1, p.size).expand(1, p.channels, p.size, p.size).contiguous()
    with torch.inference_mode():
        wanted, given = (part(images).flatten() for part in (vision, archived))
    if wanted.shape != given.shape or torch.cosine_similarity(wanted, given, dim=0) < _ALIKE:
        raise ArchiveError(f"--archive {archive} has the encoder of another model")
    return archived


def _read(path: Path, config: InputConfig, frame: int) -> Radiograph:
    try:
        return read_picture(path, config, frame)
    except (OSError, InputError) as error:
        raise DatasetError(f"{path} cannot be evaluated: {error}") from error
