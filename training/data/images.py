"""Image files as a network gets them: what the server does with them, and between its steps the augmentation."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from prelim.archive.model_config import ModelConfig
from prelim.errors import InputError
from prelim.images.preprocess import PreprocessConfig, preprocess
from training.data.augment import augment
from training.datasets.pictures import read_picture
from training.datasets.study import DatasetError
from training.settings import Augmentation

UNCHANGED = Augmentation()


class Images:
    """pixel_values of image files; without augmentation they are bit for bit those of the server.

    paths   : the files
    config  : of the model: which images it accepts, and how they are preprocessed
    changes : how they are augmented
    cache   : all are read now and kept, one byte a pixel, or four where the model resizes in float32, or three where it
              pads in a color
    hidden  : no progress bar while they are read

    Raises DatasetError for a file that cannot be read or is refused, ArchiveError for pictures of several sizes.
    """

    name = "pixel_values"

    def __init__(
        self,
        paths: Sequence[Path],
        config: ModelConfig,
        changes: Augmentation = UNCHANGED,
        *,
        frame: int = 0,
        cache: bool = False,
        hidden: bool = False,
    ) -> None:
        self._paths, self._config, self._changes, self._frame = paths, config, changes, frame
        p = config.preprocess
        p.check_one_size("training")
        side = (changes.active and changes.side) or p.size
        # One gray channel in [0, 1], whatever the network takes: colors and normalization come after augmentation. What
        # is padded in the color of the mean has all channels.
        self._colored = p.resize == "pad_mean"
        planes = p.channels if self._colored else 1
        self._plain = dataclasses.replace(
            p,
            size=side,
            resize_to=None if p.resize_to is None else round(p.resize_to * side / p.size),
            channels=planes,
            mean=p.mean if self._colored else (0.0,),
            std=(1.0,) * planes,
        )
        self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (p.mean, p.std))
        self._kept: Tensor | None = None
        if cache:
            # What is resized with antialias has passed through 8 bits: nothing is lost.
            kind = torch.uint8 if p.antialias else torch.float32
            self._kept = torch.empty(len(paths), planes, side, side, dtype=kind)
            for i in tqdm(range(len(paths)), desc="reading images", unit="image", disable=hidden):
                plain = self._read(i)
                self._kept[i] = (plain * 255).round() if p.antialias else plain

    def take(self, indices: Sequence[int], generator: Generator) -> Tensor:
        """pixel_values of some images, shape (len(indices), channels, size, size), channels last in memory."""
        p: PreprocessConfig = self._config.preprocess
        if self._kept is None:
            plain = torch.stack([self._read(i) for i in indices])
        else:
            plain = self._kept[list(indices)]
            plain = plain.float() / 255 if plain.dtype == torch.uint8 else plain
        if self._changes.active:
            # Radiographs are gray; the color of padding becomes gray with them.
            plain = augment(plain.mean(dim=1), p.size, self._changes, generator)[:, None]
        pixels = (plain.expand(-1, p.channels, -1, -1) - self._mean) / self._std
        return pixels.contiguous(memory_format=torch.channels_last)

    def _read(self, index: int) -> Tensor:
        """Planes in [0, 1], shape (1 or channels, side, side)."""
        path = self._paths[index]
        try:
            planes = torch.from_numpy(preprocess(read_picture(path, self._config.input, self._frame), self._plain))
            # Levels of 8 bits come back exactly.
            return ((planes + self._mean) * 255).round() / 255 if self._colored else planes
        except (OSError, InputError) as error:
            raise DatasetError(f"{path} cannot be learned from: {error}") from error
