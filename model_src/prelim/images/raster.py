"""PNG, JPEG, WebP and TIFF -> gray levels."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from prelim.errors import Refused, TooLarge, UnreadableInput
from prelim.images.decoder_fence import fence
from prelim.images.deep_raster import DeepSamples, read_deep_png, read_deep_tiff, turn
from prelim.images.gray_levels import scale_samples
from prelim.images.input_config import PILLOW_LIMIT, InputConfig, check_size
from prelim.images.jpeg_end import INCOMPLETE, START_OF_SCAN, end_of_picture, is_whole, read_segments
from prelim.images.png_chunks import keep_picture, read_chunks

# A progressive JPEG has about ten scans. Every scan costs a pass over all pixels and needs few bytes in the file.
MAX_JPEG_SCANS = 100

# Markers that begin a frame: ITU-T T.81 table B.1, and T.87 for JPEG-LS; None: Pillow decodes it.
JPEG_FRAMES: dict[int, str | None] = {
    **dict.fromkeys((0xC0, 0xC1, 0xC2)),
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF), "lossless"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "hierarchical"),
    **dict.fromkeys((0xC9, 0xCA), "coded arithmetically"),
    0xF7: "JPEG-LS",
}

# Exif 2.32 4.6.4
ORIENTATION = 0x0112

# Chroma noise of JPEG stays below this many of 256 levels.
COLOR_LEVELS = 24
COLOR_SHARE = 0.01

# Pillow's modes without a color, whatever the pixels.
GRAY_MODES = ("1", "L", "LA", "La")

# Rows that are converted at a time.
BAND = 256


def read_raster(data: bytes, kind: str, config: InputConfig) -> tuple[np.ndarray, tuple[str, ...], object]:
    """Pixels, (rows, columns) float32 in [0, 1], high is white, upright; warnings; and how they were turned.

    kind : "PNG", "JPEG", "WEBP" or "TIFF"

    Raises UnreadableInput (400) if damaged, TooLarge (413) from the header alone, Refused (422) for several frames
    and for the sizes that `check_size` refuses.
    """
    warnings: list[str] = []
    exif = b""
    if kind == "JPEG":
        check_jpeg(data)
        data, complete = end_of_picture(data)
        if not complete:
            warnings.append("no_end_marker: the JPEG image has no end marker; its picture is complete")
    if kind == "PNG":
        data, exif = keep_picture(data)
    if kind == "WEBP":
        # Pillow's decoder allocates the whole canvas when it opens the file.
        columns, rows = webp_size(data)
        check_size(rows, columns, config)
    if kind == "TIFF":
        deep = read_deep_tiff(data, config)
        if deep is not None:
            return _scale(deep, config)
    image = _open_picture(data, kind, config, warnings)
    if kind == "PNG":
        deep = read_deep_png(data, read_orientation(exif))
        if deep is not None:
            return _scale(deep, config)
    with fence(f"the {kind} image"):
        image.load()
        if kind == "JPEG" and not is_whole(data):
            raise UnreadableInput(INCOMPLETE.format(kind="JPEG"))
        orientation = read_orientation(exif if kind == "PNG" else image)
        image = _with_scaled_transparency(image, data) if kind == "PNG" else image
        if _has_colors(image):
            warnings.append("colour: the image has colors, which became gray; a radiograph is gray")
        pixels = turn(_to_gray(image), orientation)
    return pixels, tuple(warnings), orientation


def _scale(deep: DeepSamples, config: InputConfig) -> tuple[np.ndarray, tuple[str, ...], object]:
    pixels, own_range = scale_samples(deep.samples, config.render, deep.white_is_zero)
    warning = "range: what the samples can be at most is not known; scaled by percentiles 0.5 to 99.5"
    warnings = (warning,) if own_range and config.render != "minmax_equalize" else ()
    return pixels, warnings, deep.orientation


def _open_picture(data: bytes, kind: str, config: InputConfig, warnings: list[str]) -> Image.Image:
    """The one picture of a file, its size checked, not yet decoded."""
    with fence(f"the {kind} image"):
        image = _open(data, kind, config)
        columns, rows = image.size
        # The pages of a TIFF file have been counted, without reduced ones.
        several = kind != "TIFF" and bool(getattr(image, "is_animated", False))
    check_size(rows, columns, config)
    if several and image.format == "MPO":
        # The further pictures of a Multi-Picture JPEG are previews and depth maps of the first.
        warnings.append("multi_picture: only the first picture of the file is used")
    elif several:
        raise Refused(f"multi_frame: the {kind} file has several pages or frames; allowed: 1; send one page")
    return image


def _open(data: bytes, kind: str, config: InputConfig) -> Image.Image:
    try:
        return Image.open(BytesIO(data), formats=(kind,))
    except Image.DecompressionBombError:
        raise TooLarge(
            f"the {kind} image has more than {PILLOW_LIMIT} pixels; allowed: {config.max_pixels}; send it reduced"
        ) from None


def read_orientation(source: Image.Image | bytes) -> object:
    """Orientation (Exif 2.32 4.6.4) of an image or of an Exif block, 1 if there is none that can be read."""
    try:
        if isinstance(source, bytes):
            exif = Image.Exif()
            exif.load(source)
        else:
            exif = source.getexif()
        return exif.get(ORIENTATION, 1)
    # What a camera writes about a picture must not cost the picture. Pillow raises as much here as in `decoder_fence`.
    except Exception:  # noqa: BLE001
        return 1


def _with_scaled_transparency(image: Image.Image, data: bytes) -> Image.Image:
    """A gray PNG of less than 8 bits with its transparent level scaled as Pillow scales its samples.

    ISO/IEC 15948 11.3.2.1: tRNS has the level as a sample of the file.
    """
    chunk = next((chunk for kind, chunk in read_chunks(data) if kind == b"tRNS"), b"")
    if image.mode not in ("1", "L") or len(chunk) != 14:
        return image
    # With samples of one bit, Pillow keeps only whether the level is 0.
    level = int.from_bytes(chunk[8:10], "big")
    highest = 2 ** data[24] - 1
    gray = image.convert("L") if image.mode == "L" else Image.fromarray(np.asarray(image).astype(np.uint8) * 255)
    gray.info["transparency"] = (level & highest) * 255 // highest
    return gray


def check_jpeg(data: bytes) -> None:
    """Refuse (422) a JPEG of another kind than Pillow decodes, by the marker that begins its frame (ITU-T T.81 B.1.1).

    A file without one is left to the decoder. Raises UnreadableInput (400) for too many scans.
    """
    if data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise UnreadableInput(f"the JPEG image has more than {MAX_JPEG_SCANS} scans; save it again as baseline JPEG")
    for marker, start, _ in read_segments(data):
        if marker == START_OF_SCAN:
            return
        if marker in JPEG_FRAMES and start < len(data):
            name, bits = JPEG_FRAMES[marker], data[start]
            if name is not None:
                raise Refused(f"not supported: the JPEG image is {name}; save it as baseline JPEG or as PNG")
            if bits != 8:
                raise Refused(f"not supported: the JPEG image has {bits} bits a sample; allowed: 8; save it as PNG")
            return


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height from the first chunk of a WebP file (RFC 9649, 2.5 to 2.7)."""
    chunk, head = data[12:16], data[20:30]
    if len(head) == 10:
        if chunk == b"VP8X":
            return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
        if chunk == b"VP8L" and head[0] == 0x2F:
            bits = int.from_bytes(head[1:5], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        if chunk == b"VP8 ":
            return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    raise UnreadableInput("the WEBP image has no readable header: it is damaged or truncated; send it again")


def _has_colors(image: Image.Image) -> bool:
    if image.mode in GRAY_MODES:
        return False
    # A grid of about a million pixels tells color from gray as well as all of them.
    step = max(1, max(image.size) // 1000)
    small = image.resize((image.width // step, image.height // step), Image.Resampling.NEAREST)
    # By planes: NumPy takes the extremes along an axis of three some fifty times slower.
    red, green, blue = (np.asarray(plane) for plane in _on_black(small).convert("RGB").split())
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    return bool((highest - lowest > COLOR_LEVELS).mean() > COLOR_SHARE)


def _to_gray(image: Image.Image) -> np.ndarray:
    """(rows, columns) float32 in [0, 1]: alpha on black, color as ITU-R 601-2 luma, equal R, G, B as they are.

    A band of rows at a time, since an image of every step between would take four bytes a pixel.
    """
    gray = np.empty((image.height, image.width), dtype=np.float32)
    for top in range(0, image.height, BAND):
        band = _on_black(image.crop((0, top, image.width, min(top + BAND, image.height))))
        # By way of RGB, as palettes and CMYK have no conversion to gray that rounds alike.
        band = band if band.mode in ("1", "L") else band.convert("RGB")
        np.divide(np.asarray(band.convert("L")), np.float32(255), out=gray[top : top + BAND])
    return gray


def _on_black(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa"):
        # An associated alpha was applied to the channels already: that puts them on black.
        channels = image.split()[:-1]
        return channels[0] if len(channels) == 1 else Image.merge("RGB", channels)
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image.convert("RGBA"))
