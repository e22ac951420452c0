"""PNG and TIFF files whose samples are not of 8 unsigned bits: decoded with all their bits, which Pillow does not keep.

Pillow returns the high byte of PNG and TIFF color of 16 bits, and signed samples of 8 bits as unsigned ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from itertools import islice

import imagecodecs
import numpy as np
from tifffile import TiffFile, TiffPage

from prelim.errors import Refused, UnreadableInput
from prelim.images.decoder_fence import fence
from prelim.images.gray_levels import luma, pieces
from prelim.images.input_config import InputConfig, check_size
from prelim.images.jpeg_end import END, INCOMPLETE, end_of_picture, is_whole

# TIFF 6.0 section 8 and Adobe's supplement: none, CCITT, LZW, JPEG, Deflate, PackBits; and Zstandard.
PILLOW_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32773, 32946, 50000)
DEEP_COMPRESSIONS = (1, 5, 8, 32773, 32946, 50000)

# Photometric Interpretation: WhiteIsZero, BlackIsZero, RGB; Pillow also palettes, CMYK and YCbCr.
DEEP_PHOTOMETRICS = (0, 1, 2)
PILLOW_PHOTOMETRICS = (0, 1, 2, 3, 5, 6)

# Compression and bit of NewSubfileType (TIFF 6.0 section 8).
JPEG = 7
REDUCED = 1

DEEP_TYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32")

# A strip of one row each, or tiles of 32 x 32: more of them cost more than their pixels.
MAX_SEGMENTS = 50_000

# Exif 2.32 4.6.4: Orientation -> quarter turns counterclockwise, then mirrored left to right.
ORIENTATIONS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}


@dataclass(frozen=True)
class DeepSamples:
    """Samples of one gray channel, (rows, columns), upright, whether low ones are white, and how they were turned."""

    samples: np.ndarray
    white_is_zero: bool = False
    orientation: object = 1


def read_deep_png(data: bytes, orientation: object) -> DeepSamples | None:
    """The samples of a PNG of 16 bits, or None if it has fewer; its size must have been checked.

    Raises UnreadableInput (400) if it is damaged.
    """
    # ISO/IEC 15948 11.2.2: IHDR is the first chunk; its bit depth follows width and height.
    if data[24:25] != b"\x10":
        return None
    with fence("the PNG image"):
        samples = imagecodecs.png_decode(data)
    channels = samples.reshape(*samples.shape[:2], -1)
    alpha = channels[..., -1] if channels.shape[-1] in (2, 4) else None
    return DeepSamples(turn(to_gray(channels, alpha), orientation), orientation=orientation)


def read_deep_tiff(data: bytes, config: InputConfig) -> DeepSamples | None:
    """The samples of a TIFF, or None if they are of at most 8 unsigned bits, which Pillow decodes as a rule.

    Raises UnreadableInput (400) if it is damaged, TooLarge (413) over `max_pixels`, Refused (422) for several pages
    and for what TIFF allows and is not read here.
    """
    with fence("the TIFF image"):
        with TiffFile(BytesIO(data)) as file:
            page = file.pages.first
            if not isinstance(page, TiffPage):
                raise UnreadableInput("the TIFF image has no page: it is damaged or truncated; send it again")
            check_size(page.imagelength, page.imagewidth, config)
            if count_frames(file, page) > 1:
                raise Refused("multi_frame: the TIFF file has several pages or frames; allowed: 1; send one page")
            shallow = page.bitspersample <= 8 and page.sampleformat == 1 and not is_beyond_pillow(file, page)
            check_supported(page, shallow)
            check_segments(page, data)
            if shallow:
                return None
            channels = page.asarray(maxworkers=1)
            orientation = page.tags.valueof(274, default=1)
    if page.planarconfig == 2 and channels.ndim == 3:
        channels = np.moveaxis(channels, 0, -1)
    channels = channels.reshape(page.imagelength, page.imagewidth, -1)
    if channels.dtype == np.float16:
        channels = channels.astype(np.float32)
    # Only an unassociated alpha (2) is left to apply: with an associated one (1) it was (TIFF 6.0 section 18).
    alpha = channels[..., -1] if 2 in page.extrasamples else None
    return DeepSamples(turn(to_gray(channels, alpha), orientation), page.photometric == 0, orientation)


def count_frames(file: TiffFile, page: TiffPage) -> int:
    """How many pictures a file has, 2 for more: pages, except reduced ones, or slices that have no page."""
    pages = map(file.pages.get, range(len(file.pages)))
    whole = (one for one in pages if not (isinstance(one, TiffPage) and one.subfiletype & REDUCED))
    # ImageJ and tifffile write slices without a page for each.
    stacked = int(np.prod(file.series[0].shape)) // int(np.prod(page.shape)) if len(file.pages) == 1 else 1
    return max(sum(1 for _ in islice(whole, 2)), stacked, page.imagedepth)


def is_beyond_pillow(file: TiffFile, page: TiffPage) -> bool:
    """Whether Pillow reads 8 bits wrong (a predictor without LZW or Deflate), or not at all (big-endian BigTIFF)."""
    return page.bitspersample == 8 and (
        (page.predictor != 1 and page.compression in (1, 32773)) or (file.is_bigtiff and file.byteorder == ">")
    )


def check_supported(page: TiffPage, shallow: bool) -> None:
    """Refuse (422) what TIFF allows and is not read here, by name."""
    compressions = PILLOW_COMPRESSIONS if shallow else DEEP_COMPRESSIONS
    photometrics = PILLOW_PHOTOMETRICS if shallow else DEEP_PHOTOMETRICS
    extra = len(page.extrasamples)
    kind = str(np.dtype(page.dtype)) if page.dtype is not None else f"{page.bitspersample}-bit"
    found = None
    if page.compression not in compressions:
        found = f"Compression {code(page.compression)}; allowed: none, LZW, Deflate, PackBits, JPEG of 8 bits"
    elif page.photometric not in photometrics:
        found = f"PhotometricInterpretation {code(page.photometric)}; allowed: gray, RGB"
    elif page.bitspersample in (3, 5, 6, 7):
        found = f"samples of {page.bitspersample} bits; allowed: 1, 2, 4, 8, 16, 32"
    elif not shallow and 16 < page.bitspersample < 32:
        found = f"samples of {page.bitspersample} bits; allowed: 16, 32"
    elif not shallow and kind not in DEEP_TYPES:
        found = f"samples of type {kind}; allowed: {', '.join(DEEP_TYPES)}"
    elif not shallow and (page.samplesperpixel - extra not in (1, 3) or extra > 1):
        found = f"{page.samplesperpixel} samples a pixel; allowed: 1 or 3, and alpha"
    elif not shallow and 2 in page.extrasamples and kind != "uint16":
        found = f"an alpha channel of type {kind}; allowed: uint16"
    if found is not None:
        raise Refused(f"not supported: the TIFF image has {found}; save it as uncompressed TIFF or as PNG")


def code(value: int) -> str:
    """Name and number of a code that tifffile knows, such as "LERC (34887)", and the number of any other."""
    name = getattr(value, "name", None)
    return f"{name} ({int(value)})" if name else str(int(value))


def check_segments(page: TiffPage, data: bytes) -> None:
    """Raise UnreadableInput (400) unless every strip or tile lies within the file, and is whole if it is JPEG.

    tifffile takes one without bytes for one that is meant to be empty, and returns zeros for it.
    """
    offsets, counts = np.asarray(page.dataoffsets), np.asarray(page.databytecounts)
    if len(offsets) > MAX_SEGMENTS:
        raise UnreadableInput(
            f"the TIFF image has {len(offsets)} strips or tiles; allowed: {MAX_SEGMENTS}; save it with larger ones"
        )
    wanted = int(np.prod(page.chunked))
    if len(offsets) != len(counts) or len(offsets) < wanted or not (offsets > 0).all() or not (counts > 0).all():
        raise UnreadableInput("the TIFF image lacks strips or tiles: it is damaged or truncated; send it again")
    if int((offsets + counts).max()) > len(data):
        raise UnreadableInput("the TIFF image ends inside of a strip or tile: it is truncated; send it again")
    if page.compression == JPEG:
        # The tables of all strips or tiles (Adobe's TIFF Technical Note 2) are a file of their own.
        tables = (page.jpegtables or b"\xff\xd8").removesuffix(END)
        for offset, count in zip(offsets.tolist(), counts.tolist(), strict=True):
            stream, _ = end_of_picture(tables + data[offset + 2 : offset + count])
            if not is_whole(stream):
                raise UnreadableInput(INCOMPLETE.format(kind="TIFF"))


def to_gray(channels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """One channel, (rows, columns), of (rows, columns, channels): color as luma, alpha on black.

    Equal red, green and blue are returned as they are.
    """
    rows, columns, number = channels.shape
    if number < 3 and alpha is None:
        return channels[..., 0]
    flat, gray = channels.reshape(-1, number), np.empty(rows * columns, dtype=channels.dtype)
    opacity = None if alpha is None else alpha.reshape(-1)
    for piece in pieces(len(flat)):
        values = luma(flat[piece]) if number >= 3 else flat[piece, 0]
        if opacity is not None and opacity[piece].min() < 65535:
            # Only samples of 16 bits have an alpha here: the product of two fits into 32.
            values = (values * opacity[piece].astype(np.uint32) + 32767) // 65535
        gray[piece] = values
    return gray.reshape(rows, columns)


def turn(samples: np.ndarray, orientation: object) -> np.ndarray:
    """Samples upright, by the Orientation of Exif and TIFF; a value that is not defined changes nothing."""
    turns, mirrored = ORIENTATIONS.get(orientation, (0, False)) if isinstance(orientation, int) else (0, False)
    samples = np.rot90(samples, turns)
    return np.ascontiguousarray(samples[:, ::-1] if mirrored else samples)
