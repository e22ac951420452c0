"""Image files through a model's vision encoder, read as the server reads them."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from prelim.archive.model_config import ModelConfig
from prelim.encoding.gate import mean_features
from prelim.errors import InputError
from prelim.images.preprocess import preprocess
from prelim.images.radiograph import InputConfig, Radiograph
from training.datasets.formats.feature_json import read_embedding
from training.datasets.pictures import read_picture
from training.datasets.study import DatasetError


class ServedEncoder:
    """A vision encoder as it is served.

    slots : how many images are taken together
    frame : of Source
    """

    def __init__(
        self, vision: nn.Module, config: ModelConfig, slots: int = 16, device: str = "cpu", frame: int = 0
    ) -> None:
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


def _read(path: Path, config: InputConfig, frame: int) -> Radiograph:
    try:
        return read_picture(path, config, frame)
    except (OSError, InputError) as error:
        raise DatasetError(f"{path} cannot be evaluated: {error}") from error
