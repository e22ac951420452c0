"""What fp32 writes for a folder of radiographs: precisions are chosen by how much of it they keep."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prelim.decoders.decoder import Decoder
from prelim.encoding.onnx_session import Array
from prelim.errors import ArchiveError, InputError
from prelim.kernels import family
from prelim.networks.agreement import Prefix, Reading, RealModel, read, read_pixels, real_model, write
from prelim.networks.model_folder import Model
from prelim.networks.moments import input_moments
from prelim.networks.trained_decoder import serving_decoder

MOST_IMAGES = 100
"""More images of a folder are left out, evenly."""

_FEWEST_IMAGES = 2
"""One for rounding, one for measuring."""


@dataclass(frozen=True)
class Reference:
    """The texts that fp32 writes for images: one half is for rounding, the other for measuring what it changes.

    model : with a prefix for each image
    exact : its decoder in fp32
    texts : token ids after each prefix
    pixel_values : float32, shape (images, channels, size, size); none where no encoder is measured
    processor : the kind for which precisions are chosen, of `prelim.kernels.family`; all are measured here
    """

    model: RealModel
    exact: Decoder[Any]
    texts: Sequence[tuple[int, ...]]
    pixel_values: Array = field(default_factory=lambda: np.empty((0, 3, 0, 0), dtype=np.float32))
    processor: str = field(default_factory=family)

    @classmethod
    def of(cls, model: RealModel, **options: Any) -> "Reference":
        """Let fp32 write."""
        exact = serving_decoder(model.decoder)
        return cls(model, exact, write(exact, model, model.prefixes, beams=1), **options)

    @property
    def images(self) -> int:
        """Images that are measured on."""
        return len(self.texts[1::2])

    @property
    def tokens(self) -> int:
        """Tokens that are measured on."""
        return sum(map(len, self.texts[1::2]))

    @property
    def measured(self) -> Sequence[Prefix]:
        """Prefixes that are measured on."""
        return self.model.prefixes[1::2]

    def moments(self) -> dict[str, Tensor]:
        """What the decoder's layers read, of the images for rounding."""
        return input_moments(self.model.decoder, self.model.prefixes[::2], self.texts[::2])

    @cached_property
    def _exact_readings(self) -> list[Reading]:
        return read(self.exact, self.model, self.measured, self.texts[1::2])

    def changed(self, decoder: Decoder[Any], prefixes: Sequence[Prefix] | None = None) -> float:
        """Share of the measured tokens whose choice is another.

        prefixes : instead of those of fp32
        """
        found = read(decoder, self.model, self.measured if prefixes is None else prefixes, self.texts[1::2])
        unlike = torch.cat([a.choices != b.choices for a, b in zip(self._exact_readings, found, strict=True)])
        return round(float(unlike.float().mean()), 6)


@torch.inference_mode()
def read_reference(model: Model, folder: Path | None, what: str, processor: str | None = None) -> Reference:
    """The reference of a model by the images of a folder.

    what      : needs it, for messages
    processor : see Reference; None: this one

    Raises ArchiveError if there are fewer than two images, or one that cannot be read, and for a model with pictures of
    several sizes.
    """
    model.config.preprocess.check_one_size(what)
    if folder is None:
        raise ArchiveError(f"{what} needs reports of the model: pass --images FOLDER with radiographs")
    files = sorted(path for path in folder.glob("*") if path.is_file())
    if len(files) < _FEWEST_IMAGES:
        raise ArchiveError(f"--images {folder} has {len(files)} files; it needs two radiographs or more, better 100")
    chosen = [files[i * len(files) // MOST_IMAGES] for i in range(MOST_IMAGES)] if len(files) > MOST_IMAGES else files
    try:
        pixel_values = read_pixels(model.config, [path.read_bytes() for path in chosen])
    except InputError as error:
        raise ArchiveError(f"--images {folder}: {error}") from error
    real = real_model(model, pixel_values, folder.name)
    return Reference.of(real, pixel_values=pixel_values, processor=processor or family())
