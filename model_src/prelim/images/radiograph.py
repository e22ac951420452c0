"""Bytes -> Radiograph.

The kind of a file is recognized by its content; names and HTTP headers are not looked at. DICOM goes through
`dicom.structure` (is it safe to parse), `dicom.header` (may this model answer it), `dicom.pixels` (stored values)
and `dicom.gray_scale` (stored values -> gray); everything else goes through `raster`. All of it happens in a child
process with limits (`decoding_process`), whatever the kind.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prelim.errors import NotAnImage, Refused, TooLarge, UnreadableInput
from prelim.images.decoding_process import DECODING
from prelim.images.deep_raster import ORIENTATIONS
from prelim.images.dicom.pixels import read_dicom
from prelim.images.dicom.structure import looks_like_dicom
from prelim.images.input_config import InputConfig
from prelim.images.raster import read_raster

__all__ = ["InputConfig", "Radiograph", "read_radiograph"]

ALLOWED = "PNG, JPEG, WebP, TIFF, DICOM"

RASTER_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)

# Only to tell the sender what the file is; none of these is read.
OTHER_MAGIC = (
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "ZIP"),
    (b"PK\x05\x06", "ZIP"),
    (b"\x1f\x8b", "GZIP"),
    (b"BZh", "BZIP2"),
    (b"\xfd7zXZ\x00", "XZ"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"Rar!\x1a\x07", "RAR"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x93NUMPY", "NumPy"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"8BPS", "Photoshop"),
    (b"P5", "PNM"),
    (b"P6", "PNM"),
    (b"\x7fELF", "an executable"),
    (b"MZ", "an executable"),
)

TEXT_STARTS = ((b"<!doctype html", "HTML"), (b"<html", "HTML"), (b"<svg", "SVG"), (b"<", "XML"), (b"{", "JSON"))


@dataclass(frozen=True)
class Radiograph:
    """One radiograph, rendered.

    pixels    : (rows, columns) float32 in [0, 1], high is white
    spacing   : row and column spacing in mm (PS3.3 10.7.1.1), or None if the file has none. ImagerPixelSpacing is
                measured at the detector: no size of anatomy follows from it
    modality  : (0008,0060), or None for a file that is not DICOM
    view      : (0018,5101) View Position, or None
    warnings  : texts such as "no_window: ...", free of patient data
    orientation : by which a file that is not DICOM was turned (Exif 2.32 4.6.4); 1: `pixels` are as they were stored
    """

    pixels: np.ndarray
    spacing: tuple[float, float] | None
    modality: str | None
    view: str | None
    warnings: tuple[str, ...]
    orientation: int = 1


def read_radiograph(data: bytes, config: InputConfig) -> Radiograph:
    """Read a PNG, JPEG, WebP, TIFF or DICOM file.

    data : the file, whole

    Raises InputError and nothing else, whatever the bytes: UnreadableInput (400) if they are empty, damaged or
    truncated; TooLarge (413) over `max_bytes` or `max_pixels`, before anything is decoded, and over the limits of CPU
    time and memory; NotAnImage (415) for any other kind of file; Refused (422), with the reason as first word, for what
    this model must not answer; Overloaded (503) if there is no process to decode it.
    """
    if not data:
        raise UnreadableInput(f"the image is empty; allowed: {ALLOWED}")
    if len(data) > config.max_bytes:
        raise TooLarge(
            f"the image has {len(data)} bytes; allowed: {config.max_bytes}; "
            "send it compressed, or set input.max_bytes in model.yaml"
        )
    header, pixels = DECODING.decode(data, recognize(data), config)
    spacing = header["spacing"]
    return Radiograph(
        pixels=pixels,
        spacing=None if spacing is None else (spacing[0], spacing[1]),
        modality=header["modality"],
        view=header["view"],
        warnings=tuple(header["warnings"]),
        orientation=header["orientation"],
    )


def render(data: bytes, kind: str, config: InputConfig) -> Radiograph:
    """Decode and render a file of this kind, in this process: `decoding_child` calls it under its limits.

    Raises InputError, and MemoryError.
    """
    spacing: tuple[float, float] | None = None
    modality: str | None = None
    view: str | None = None
    orientation: object = 1
    if kind == "DICOM":
        pixels, header = read_dicom(data, config)
        spacing, modality, view, warnings = header.spacing, header.modality, header.view, header.warnings
    else:
        pixels, warnings, orientation = read_raster(data, kind, config)
    # Below one step of an 8-bit display everything is one gray level.
    if float(pixels.max()) - float(pixels.min()) < 1 / 255:
        raise Refused("flat_image: the image has one gray level; allowed: a radiograph; check its export or its window")
    turned = orientation if isinstance(orientation, int) and orientation in ORIENTATIONS else 1
    return Radiograph(pixels, spacing, modality, view, tuple(warnings), turned)


def recognize(data: bytes) -> str:
    """The format, "PNG", "JPEG", "WEBP", "TIFF" or "DICOM"; NotAnImage (415) says what else the file looks like."""
    # First, because PS3.10 7.1 lets the preamble of a DICOM file hold the header of another format.
    if looks_like_dicom(data):
        return "DICOM"
    for magic, kind in RASTER_MAGIC:
        if data.startswith(magic):
            return kind
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    raise NotAnImage(f"the data looks like {_describe(data)}; allowed: {ALLOWED}, recognized by content")


def _describe(data: bytes) -> str:
    for magic, kind in OTHER_MAGIC:
        if data.startswith(magic):
            return kind
    if data[4:8] == b"ftyp":
        return "HEIF, AVIF or MP4"
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    for opening, kind in TEXT_STARTS:
        if start.lower().startswith(opening):
            return kind
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in data[:512]):
        return "text (if it is base64, decode it first)"
    return "an unknown binary format"
