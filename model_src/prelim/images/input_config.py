"""What one model accepts as input: section `input` of model.yaml, and the limits on the size of an image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from pydicom import uid

from prelim.errors import ArchiveError, Refused, TooLarge, UnreadableInput

RENDERINGS = ("voi", "minmax_equalize")
BURNED_IN = ("refuse", "warn")
UNLIKE_TRAINING = ("refuse", "warn", "ignore")

# Below this no network here sees anatomy: a thumbnail, an icon or a 1 x 1 tracking pixel.
MIN_SIDE = 32

# A full spine is about 3 : 1. A picture beyond 5 : 1 is not a radiograph, and resizing its short side would
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
class Accepts:
    """Section `input.accepts` of model.yaml: what a DICOM file may be a picture of.

    A file that contradicts one of these lists is refused; one that does not say gets a warning. None accepts anything.

    body_parts  : terms of (0018,0015) Body Part Examined (PS3.16 annex L), e.g. ("CHEST",)
    views       : terms of (0018,5101) View Position, e.g. ("PA", "AP")
    sop_classes : keywords of (0008,0016) SOP Class UID, e.g. ("ComputedRadiographyImageStorage",). A class For
                  Processing is accepted only if it is listed

    Raises ArchiveError if a value is not allowed.
    """

    body_parts: tuple[str, ...] | None = None
    views: tuple[str, ...] | None = None
    sop_classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        # YAML has lists where this has tuples.
        for name in ("body_parts", "views"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _codes(f"accepts.{name}", getattr(self, name)))
        if self.sop_classes is None:
            return
        classes = self.sop_classes
        if not isinstance(classes, (list, tuple)) or not classes:
            raise ArchiveError(f"input.accepts.sop_classes is {classes!r}; allowed: a list of at least one keyword")
        for keyword in classes:
            if not isinstance(keyword, str) or "Storage" not in keyword or not hasattr(uid, keyword):
                raise ArchiveError(
                    f"input.accepts.sop_classes has {keyword!r}; allowed: keywords of PS3.6 such as "
                    "'ComputedRadiographyImageStorage'"
                )
        object.__setattr__(self, "sop_classes", tuple(classes))


@dataclass(frozen=True)
class InputConfig:
    """Section `input` of model.yaml.

    modalities : accepted (0008,0060) Modality of a DICOM file; "MG" is accepted only if listed
    render     : "voi": the gray scale that the file itself asks for (PS3.4 N.2);
                 "minmax_equalize": the recipe of the MIMIC-CXR-JPG and CheXpert JPEGs, which ignores the window:
                 min-max, inverted if MONOCHROME1, histogram equalization. 8-bit PNG, JPEG, WebP and TIFF files are
                 taken as rendered already
    accepts    : what the pictures may be of, by their headers
    burned_in  : "refuse" or "warn": what happens to a file whose (0028,0301) Burned In Annotation is YES
    unlike_training : "refuse", "warn" or "ignore": what happens to an image that the model's gate (encoding.gate) finds
                 unlike those of its training. None: "refuse" where the model has a gate
    max_bytes  : of the file, and of a deflated data set after inflating
    max_pixels : rows x columns. The default takes every X-ray detector on the market (a 24 x 30 cm mammogram at
                 50 micrometers has 29 million) and rejects decompression bombs
    max_cpu_seconds : of the process that decodes a file; for JPEG 2000 0.2 s for a million pixels, if that is more

    Raises ArchiveError if a value is not allowed.
    """

    modalities: tuple[str, ...] = ("CR", "DX", "RG")
    render: str = "voi"
    accepts: Accepts = field(default_factory=Accepts)
    burned_in: str = "refuse"
    unlike_training: str | None = None
    max_bytes: int = 64 * 2**20
    max_pixels: int = 40_000_000
    max_cpu_seconds: float = 1.8

    def __post_init__(self) -> None:
        # YAML has lists where this has tuples.
        object.__setattr__(self, "modalities", _codes("modalities", self.modalities))
        if not isinstance(self.accepts, Accepts):
            object.__setattr__(self, "accepts", _accepts(self.accepts))
        if self.render not in RENDERINGS:
            raise ArchiveError(f"input.render is {self.render!r}; allowed: {', '.join(RENDERINGS)}")
        if self.burned_in not in BURNED_IN:
            raise ArchiveError(f"input.burned_in is {self.burned_in!r}; allowed: {', '.join(BURNED_IN)}")
        if self.unlike_training not in (None, *UNLIKE_TRAINING):
            raise ArchiveError(
                f"input.unlike_training is {self.unlike_training!r}; allowed: {', '.join(UNLIKE_TRAINING)}"
            )
        for name, highest in (("max_bytes", 2**31), ("max_pixels", PILLOW_LIMIT)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= highest:
                raise ArchiveError(f"input.{name} is {value!r}; allowed: a whole number from 1 to {highest}")
        seconds = self.max_cpu_seconds
        if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0.1 <= seconds <= 60:
            raise ArchiveError(f"input.max_cpu_seconds is {seconds!r}; allowed: a number from 0.1 to 60")


def _accepts(section: object) -> Accepts:
    """Section `accepts` of a YAML file."""
    known = [part.name for part in fields(Accepts)]
    if not isinstance(section, Mapping):
        raise ArchiveError(f"input.accepts is {section!r}; allowed: a mapping with {', '.join(known)}")
    unknown = sorted(set(map(str, section)) - set(known))
    if unknown:
        raise ArchiveError(f"input.accepts has the unknown key {unknown[0]!r}; known: {', '.join(known)}")
    return Accepts(**section)


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
