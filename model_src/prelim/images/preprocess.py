"""Radiograph -> pixel_values, as the model's training code made them.

Pillow and NumPy compute here what torchvision's transforms compute on PIL images, value for value, so that serving
needs no torchvision.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from prelim.errors import ArchiveError
from prelim.images.input_config import MAX_ASPECT
from prelim.images.radiograph import Radiograph

RESIZES = ("stretch", "shortest_edge", "pad", "pad_mean", "multiples")
CROPS: Mapping[str, Callable[[float], int]] = {"even": round, "floor": math.floor}
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class PreprocessConfig:
    """Section `preprocess` of model.yaml.

    size          : side of the square that the network gets, in pixels; of "multiples" that of one image token
    channels      : 1, or 3: the gray value repeated
    resize        : "stretch": both sides to `resize_to`, the aspect is lost;
                    "shortest_edge": the shorter side to `resize_to`, the aspect is kept;
                    "pad": the longer side to `resize_to`, the rest black;
                    "pad_mean": to a square in the color of `mean`, then its sides to `resize_to`;
                    "multiples": the network gets a rectangle: each side to a multiple of `size`, the aspect is kept as
                    far as that allows
    resize_to     : None: `size`. A center crop to `size` follows, but with "multiples"
    min_pixels, max_pixels : of "multiples": the area of the rectangle; one below is enlarged, one above made smaller
    crop          : where an odd number of pixels is cropped: "even" rounds the half to an even number, as torchvision
                    does; "floor" rounds it down, as the image processors of transformers do
    interpolation : "bilinear" or "bicubic"
    antialias     : False: what tf.image.resize does by default; bilinear only
    full_range    : gray levels are stretched, so that the darkest pixel of each image is black and the brightest white
    mean, std     : one value a channel, subtracted and divided after scaling to [0, 1]; the default is ImageNet's

    Raises ArchiveError if a value is not allowed.
    """

    size: int
    channels: int = 3
    resize: str = "stretch"
    resize_to: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    interpolation: str = "bilinear"
    antialias: bool = True
    crop: str = "even"
    full_range: bool = False
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        # YAML has lists where this has tuples.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if not 1 <= self.size <= 4096:
            raise ArchiveError(f"preprocess.size is {self.size!r}; allowed: 1 to 4096 pixels")
        if self.channels not in (1, 3):
            raise ArchiveError(f"preprocess.channels is {self.channels!r}; allowed: 1, 3")
        if self.resize not in RESIZES:
            raise ArchiveError(f"preprocess.resize is {self.resize!r}; allowed: {', '.join(RESIZES)}")
        if self.resize_to is not None and not self.size <= self.resize_to <= 4096:
            raise ArchiveError(f"preprocess.resize_to is {self.resize_to!r}; allowed: {self.size} (the size) to 4096")
        self._check_area()
        if self.interpolation not in INTERPOLATIONS:
            raise ArchiveError(
                f"preprocess.interpolation is {self.interpolation!r}; allowed: {', '.join(INTERPOLATIONS)}"
            )
        if self.crop not in CROPS:
            raise ArchiveError(f"preprocess.crop is {self.crop!r}; allowed: {', '.join(CROPS)}")
        if not self.antialias:
            self._check_floats()
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels or not np.isfinite(values).all():
                raise ArchiveError(f"preprocess.{name} is {values!r}; allowed: {self.channels} numbers, one a channel")
        if min(self.std) <= 0:
            raise ArchiveError(f"preprocess.std is {self.std!r}; allowed: numbers above 0")

    def _check_area(self) -> None:
        """Raise ArchiveError unless "multiples" has two areas that leave room for all aspects, and others none."""
        areas = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        if self.resize != "multiples":
            given = next((name for name, area in areas.items() if area is not None), None)
            if given is not None:
                raise ArchiveError(f"preprocess.{given} is {areas[given]!r} with resize {self.resize}; allowed: null")
            return
        if self.resize_to is not None:
            raise ArchiveError(f"preprocess.resize_to is {self.resize_to!r} with resize multiples; allowed: null")
        least = 1
        for name, area in areas.items():
            if isinstance(area, bool) or not isinstance(area, int) or not least <= area <= 4096**2:
                raise ArchiveError(f"preprocess.{name} is {area!r} with multiples; allowed: {least} to {4096**2}")
            # The largest one must have room for a strip that is one multiple wide.
            least = max(area, MAX_ASPECT * self.size**2)

    def check_one_size(self, doing: str) -> None:
        """Raise ArchiveError with "multiples", for what reads pictures in batches."""
        if self.resize == "multiples":
            raise ArchiveError(f"preprocess.resize is multiples, but {doing} needs pictures of one size")

    @property
    def most_tokens(self) -> int:
        """Squares of `size` in the largest picture: 1 but with "multiples"."""
        if self.min_pixels is None or self.max_pixels is None:
            return 1
        # A small image is enlarged to `min_pixels`, and each of its sides then up to the next multiple.
        least = self.min_pixels / self.size**2
        grown = least + (MAX_ASPECT**0.5 + MAX_ASPECT**-0.5) * least**0.5 + 1
        return max(self.max_pixels // self.size**2, math.floor(grown))

    def picture_size(self, tokens: int | None = None) -> tuple[int, int]:
        """Rows and columns of what the network gets; with "multiples" of a picture that is about square.

        tokens : at most so many squares of `size`, None: `most_tokens`; only with "multiples"
        """
        if self.resize != "multiples":
            return self.size, self.size
        tokens = min(tokens or self.most_tokens, self.most_tokens)
        rows = math.isqrt(tokens)
        return rows * self.size, tokens // rows * self.size

    def _check_floats(self) -> None:
        """Raise ArchiveError for what is only done with 8 bits."""
        allowed: dict[str, tuple[object, ...]] = {
            "interpolation": ("bilinear",),
            "full_range": (False,),
            "resize": tuple(resize for resize in RESIZES if resize not in ("pad_mean", "multiples")),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ArchiveError(
                    f"preprocess.{name} is {getattr(self, name)!r} with antialias false; allowed: "
                    f"{', '.join(map(str, values))}"
                )


def preprocess(radiograph: Radiograph, config: PreprocessConfig) -> np.ndarray:
    """The pixel_values, (channels, size, size) float32, of a radiograph; with "multiples" (channels, rows, columns).

    With `antialias` it goes through 8 bits, which is what the training code read from its image files; without, it
    stays in float32, since tf.image.resize takes no detour through integers either.
    """
    if not config.antialias:
        return _normalize(_resize_floats(radiograph.pixels, config)[..., None], config)
    eight_bit = np.rint(radiograph.pixels * np.float32(255)).astype(np.uint8)
    return preprocess_image(Image.fromarray(eight_bit), config)


def preprocess_image(image: Image.Image, config: PreprocessConfig) -> np.ndarray:
    """The pixel_values, as `preprocess` returns them, of an 8-bit image of mode "L" or "RGB".

    A color image keeps its colors if `channels` is 3 and `full_range` is false.
    """
    if config.full_range:
        image = _stretch_levels(image)
    image = image.convert("L" if config.channels == 1 else "RGB")
    if not config.antialias:
        planes = [np.asarray(band, dtype=np.float32) / np.float32(255) for band in image.split()]
        return _normalize(np.stack([_resize_floats(plane, config) for plane in planes], axis=-1), config)
    if config.resize == "pad_mean":
        image = _pad_to_square(image, config)
    width, height = _resized_size(image.width, image.height, config)
    if (width, height) != image.size:
        image = image.resize((width, height), INTERPOLATIONS[config.interpolation])
    left, top, right, bottom = _crop_box(width, height, config)
    # Pillow fills what lies outside of the image with 0, which is the black that "pad" needs.
    pixels = np.asarray(image.crop((left, top, right, bottom)), dtype=np.float32) / np.float32(255)
    return _normalize(pixels.reshape(bottom - top, right - left, -1), config)


def _stretch_levels(image: Image.Image) -> Image.Image:
    """Gray levels from 0 to 255, rounded down; an image of one gray level becomes black."""
    levels = np.asarray(image.convert("L"), dtype=np.float64)
    levels = levels - levels.min()
    return Image.fromarray((levels / (levels.max() or 1.0) * 255).astype(np.uint8))


def _pad_to_square(image: Image.Image, config: PreprocessConfig) -> Image.Image:
    """The image in the middle of a square. Source: Liu et al., "Visual Instruction Tuning", 2023, in their code."""
    side = max(image.size)
    color = tuple(int(255 * value) for value in config.mean)
    square = Image.new(image.mode, (side, side), color if config.channels > 1 else color[0])
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def in_image(x: float, y: float, rows: int, columns: int, config: PreprocessConfig) -> tuple[float, float]:
    """Column and row, in pixels, of an image of this size that a place in its picture shows; its edge if it shows none.

    x, y : of the place in the picture that `preprocess` makes, in parts of its side from the left and the top
    """
    side = max(rows, columns) if config.resize == "pad_mean" else None
    whole_columns, whole_rows = (columns, rows) if side is None else (side, side)
    width, height = _resized_size(whole_columns, whole_rows, config)
    left, top, right, bottom = _crop_box(width, height, config)
    column = (left + x * (right - left)) * whole_columns / width - (whole_columns - columns) // 2
    row = (top + y * (bottom - top)) * whole_rows / height - (whole_rows - rows) // 2
    return min(max(column, 0.0), float(columns)), min(max(row, 0.0), float(rows))


def as_png(pixel_values: np.ndarray, config: PreprocessConfig) -> bytes:
    """PNG of pixel_values, as `preprocess` returns them, with the normalization undone."""
    planes = pixel_values.transpose(1, 2, 0) * np.asarray(config.std) + np.asarray(config.mean)
    eight_bit = np.rint(255 * planes.clip(0, 1)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(eight_bit[..., 0] if config.channels == 1 else eight_bit).save(file, "PNG")
    return file.getvalue()


def _resized_size(width: int, height: int, config: PreprocessConfig) -> tuple[int, int]:
    """Width and height after resizing, rounded as torchvision's Resize rounds: toward zero."""
    if config.resize == "multiples":
        return _in_multiples(width, height, config)
    target = config.resize_to or config.size
    if config.resize == "stretch":
        return target, target
    edge = min(width, height) if config.resize == "shortest_edge" else max(width, height)
    return max(1, int(target * width / edge)), max(1, int(target * height / edge))


def _in_multiples(width: int, height: int, config: PreprocessConfig) -> tuple[int, int]:
    """Width and height in multiples of `size`, of an area within the limits.

    Source: Wang et al., "Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution", 2024.
    """
    sides = [round(side / config.size) * config.size for side in (width, height)]
    area, least, most = sides[0] * sides[1], config.min_pixels or 1, config.max_pixels or 1
    if area > most:
        shrink = math.sqrt(width * height / most)
        sides = [max(1, math.floor(side / shrink / config.size)) * config.size for side in (width, height)]
    elif area < least:
        grow = math.sqrt(least / (width * height))
        sides = [math.ceil(side * grow / config.size) * config.size for side in (width, height)]
    return sides[0], sides[1]


def _crop_box(width: int, height: int, config: PreprocessConfig) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the center crop; of the whole with "multiples"."""
    if config.resize == "multiples":
        return 0, 0, width, height
    rounded = CROPS[config.crop]
    left, top = rounded((width - config.size) / 2), rounded((height - config.size) / 2)
    return left, top, left + config.size, top + config.size


def _resize_floats(pixels: np.ndarray, config: PreprocessConfig) -> np.ndarray:
    """(size, size) float32: (rows, columns) resized as tf.image.resize does, bilinear, then cropped."""
    rows, columns = pixels.shape
    width, height = _resized_size(columns, rows, config)
    left, top, right, bottom = _crop_box(width, height, config)
    upper, lower, down = _neighbors(rows, height)
    before, after, across = _neighbors(columns, width)
    above = pixels[upper]
    rows_done = above + (pixels[lower] - above) * down[:, None]
    start = rows_done[:, before]
    resized = start + (rows_done[:, after] - start) * across
    padded = np.pad(resized, ((max(0, -top), max(0, bottom - height)), (max(0, -left), max(0, right - width))))
    top, left = max(0, top), max(0, left)
    return padded[top : top + config.size, left : left + config.size]


def _neighbors(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source indices of every target index and the weight of the second (half-pixel centers)."""
    position = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new) - np.float32(0.5)
    floor = np.floor(position)
    first = np.clip(floor, 0, old - 1).astype(np.intp)
    second = np.clip(np.ceil(position), 0, old - 1).astype(np.intp)
    return first, second, position - floor


def _normalize(pixels: np.ndarray, config: PreprocessConfig) -> np.ndarray:
    """(channels, rows, columns) from (rows, columns, 1 or channels) in [0, 1]."""
    values = (pixels - np.asarray(config.mean, dtype=np.float32)) / np.asarray(config.std, dtype=np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)
