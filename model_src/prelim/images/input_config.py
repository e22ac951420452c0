"""What one model accepts as input: section `input` of model.yaml, and the limits on the size of an image."""

from __future__ import annotations

import re
from dataclasses import dataclass

from prelim.errors import ArchiveError, Refused, TooLarge, UnreadableInput

RENDERINGS = ("voi", "minmax_equalize")

# Below this no network here sees anatomy: a thumbnail, an icon or a 1 x 1 tracking pixel.
MIN_SIDE = 32

# A full spine is about 3 : 1. Beyond 5 : 1 the picture is no radiograph, and resizing its short side would
# blow its long side up without bound.
MAX_ASPECT = 5

# Where Pillow gives up, whatever is configured: a quarter of a gigabyte of RGB, twice.
PILLOW_LIMIT = 178_956_970

# What the process that decodes may add to its memory. The rest of a gigabyte is the file, handed over, and the pixels.
WORKING_MEMORY = 700 * 2**20

# openjpeg needs 0.1 s for a million pixels of 12 bits, twenty times as long as any other decoder.
JPEG2000_SECONDS_PER_PIXEL = 0.2e-6

_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")


@dataclass(frozen=True)
class InputConfig:
    """Section `input` of model.yaml.

    modalities  accepted (0008,0060) Modality of a DICOM file; "MG" is accepted only if listed
    render      "voi": the grey scale that the file itself asks for (PS3.4 N.2);
                "minmax_equalize": the recipe of the MIMIC-CXR-JPG and CheXpert JPEGs, which ignores the window:
                min-max, inverted if MONOCHROME1, histogram equalisation. 8-bit PNG, JPEG, WebP and TIFF files are
                taken as rendered already
    views       accepted (0018,5101) View Position, e.g. ("PA", "AP"); None accepts any
    max_bytes   of the file, and of a deflated data set after inflating
    max_pixels  rows x columns. The default takes every X-ray detector on the market (a 24 x 30 cm mammogram at
                50 micrometres has 29 million) and refuses what exists only to exhaust memory
    max_cpu_seconds  of the process that decodes a file; for JPEG 2000 0.2 s for a million pixels, if that is more

    Raises ArchiveError if a value is not allowed.
    """

    modalities: tuple[str, ...] = ("CR", "DX", "RG")
    render: str = "voi"
    views: tuple[str, ...] | None = None
    max_bytes: int = 64 * 2**20
    max_pixels: int = 40_000_000
    max_cpu_seconds: float = 1.8

    def __post_init__(self) -> None:
        # YAML has lists where this has tuples.
        object.__setattr__(self, "modalities", _codes("modalities", self.modalities))
        if self.views is not None:
            object.__setattr__(self, "views", _codes("views", self.views))
        if self.render not in RENDERINGS:
            raise ArchiveError(f"input.render is {self.render!r}; allowed: {', '.join(RENDERINGS)}")
        for name, highest in (("max_bytes", 2**31), ("max_pixels", PILLOW_LIMIT)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= highest:
                raise ArchiveError(f"input.{name} is {value!r}; allowed: a whole number from 1 to {highest}")
        seconds = self.max_cpu_seconds
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0.1 <= seconds <= 60:
            raise ArchiveError(f"input.max_cpu_seconds is {seconds!r}; allowed: a number from 0.1 to 60")


def _codes(name: str, values: object) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)) or not values:
        raise ArchiveError(f"input.{name} is {values!r}; allowed: a list of at least one DICOM code")
    for value in values:
        if not isinstance(value, str) or not _CODE.fullmatch(value):
            raise ArchiveError(f"input.{name} has {value!r}; allowed: DICOM codes such as 'CR', in capitals")
    return tuple(values)


def check_size(rows: int, columns: int, config: InputConfig) -> None:
    """Check the size that a header claims, before any pixel is decoded.

    Raises UnreadableInput (400) for an empty image, TooLarge (413) over `max_pixels`, and Refused (422) for an image
    that is tiny or much longer than wide.
    """
    if rows < 1 or columns < 1:
        raise UnreadableInput(f"the image has {rows} rows and {columns} columns; allowed: at least {MIN_SIDE} each")
    if rows * columns > config.max_pixels:
        raise TooLarge(
            f"the image has {rows} x {columns} = {rows * columns} pixels; allowed: {config.max_pixels}; "
            "send it reduced, or set input.max_pixels in model.yaml"
        )
    if min(rows, columns) < MIN_SIDE:
        raise Refused(
            f"too_small: the image has {rows} rows and {columns} columns; allowed: at least {MIN_SIDE} each; "
            "send the radiograph, not its icon"
        )
    if max(rows, columns) > MAX_ASPECT * min(rows, columns):
        raise Refused(
            f"elongated: the image has {rows} rows and {columns} columns; allowed: at most {MAX_ASPECT} : 1; "
            "send one radiograph, cropped"
        )
