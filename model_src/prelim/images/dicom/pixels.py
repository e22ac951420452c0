"""DICOM file -> pixels: header, then samples, then the stored values in them, then gray."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydicom.dataelem import RawDataElement

from prelim.errors import Refused, UnreadableInput
from prelim.images.dicom.codestream import PIXEL_DATA, is_codestream, join_fragments
from prelim.images.dicom.encapsulated import Samples, decode_encapsulated
from prelim.images.dicom.gray_scale import gray_table
from prelim.images.dicom.header import DicomHeader, check_header
from prelim.images.dicom.structure import PIXEL_DATA as PIXEL_DATA_TAG
from prelim.images.dicom.structure import UNDEFINED, DataSet, read_data_set
from prelim.images.dicom.tags import parse, read_header_values
from prelim.images.dicom.transfer_syntax import ENCAPSULATED_UNCOMPRESSED, JPIP, NATIVE, is_known, unsupported
from prelim.images.dicom.values import RawValue, standard_name
from prelim.images.gray_levels import count_levels, look_up, luma, pieces
from prelim.images.input_config import InputConfig

# The tag of an item, which begins encapsulated pixel data (PS3.5 A.4).
ITEM = b"\xfe\xff\x00\xe0"

# Of 256 levels and of all pixels: chroma noise of JPEG stays below.
COLOR_LEVELS = 24
COLOR_SHARE = 0.01


def read_dicom(data: bytes, config: InputConfig) -> tuple[np.ndarray, DicomHeader]:
    """Pixels, (rows, columns) float32 in [0, 1], high is white, and the header with all warnings.

    Raises InputError as `read_radiograph` says.
    """
    data_set = read_data_set(data, config.max_bytes)
    if data_set.transfer_syntax in JPIP:
        raise unsupported(data_set.transfer_syntax)
    dataset = parse(data_set)
    header = check_header(read_header_values(dataset), config)
    element = dataset.get_item(PIXEL_DATA_TAG, keep_deferred=True)
    if not isinstance(element, RawDataElement) or not element.value:
        raise UnreadableInput(f"{PIXEL_DATA} is empty: the file is truncated or without its pixels; send it again")
    samples = read_samples(element, data_set, header)
    codes = gray_of(stored_codes(samples, header), header)
    bits = header.gray_scale.bits_stored
    table, warnings = gray_table(header.gray_scale, count_levels(codes, 2**bits), config.render)
    warnings = (*samples.warnings, *warnings)
    if header.lossy or samples.overshoots:
        warnings = ("lossy: the image was compressed with loss", *warnings)
    if header.samples == 3:
        warnings = (
            "gray_as_color: the image is gray, stored as colors; its gray levels are shown as they are",
            *warnings,
        )
    return look_up(table, codes), replace(header, warnings=(*header.warnings, *warnings))


def read_samples(element: RawDataElement, data_set: DataSet, header: DicomHeader) -> Samples:
    """The samples of Pixel Data, which may be compressed whatever the length of the element says."""
    value, syntax = element.value or b"", data_set.transfer_syntax
    # Converters exist that copy a codestream, with its items or alone, and keep the header of native pixels.
    missing = _native_size(header) - len(value)
    encapsulated = element.length == UNDEFINED or (missing not in (0, -1) and value.startswith(ITEM))
    if not encapsulated and missing > 0 and is_codestream(value):
        return decode_encapsulated(value, header, syntax)
    if encapsulated and syntax != ENCAPSULATED_UNCOMPRESSED:
        return decode_encapsulated(join_fragments(value), header, syntax)
    data = join_fragments(value) if encapsulated else value
    return read_native(RawValue(str(element.VR), data, data_set.little_endian_pixels), header, syntax)


def _native_size(header: DicomHeader) -> int:
    """How many bytes the samples have without compression."""
    samples = 2 if header.paired else header.samples
    return header.rows * header.columns * samples * header.bits_allocated // 8


def read_native(value: RawValue, header: DicomHeader, syntax: str) -> Samples:
    """The samples of uncompressed pixel data (PS3.5 8.1 and 8.2).

    Raises UnreadableInput (400) if they are too short, Refused (422) if nobody knows how they are encoded.
    """
    if not is_known(syntax):
        raise unsupported(syntax)
    shape, width = (header.rows, header.columns, header.samples), header.bits_allocated // 8
    count = _native_size(header) // width
    if len(value.data) < count * width:
        raise UnreadableInput(
            f"{PIXEL_DATA} has {len(value.data)} bytes; {header.rows} x {header.columns} pixels of "
            f"{count * width * 8 // (header.rows * header.columns)} bits need {count * width}: it is truncated; "
            "send it again"
        )
    frames, rest = divmod(len(value.data), count * width)
    if frames > 1 and rest <= 1:
        raise Refused(f"multi_frame: {PIXEL_DATA} has the bytes of {frames} frames; allowed: 1; send one frame")
    warnings: tuple[str, ...] = ()
    if syntax not in NATIVE:
        if len(value.data) > count * width + 1:
            raise UnreadableInput(
                f"{PIXEL_DATA} is not encapsulated; (0002,0010) Transfer Syntax UID says {standard_name(syntax)}; "
                "check its export"
            )
        warnings = (
            f"transfer_syntax: {PIXEL_DATA} is not compressed, although (0002,0010) Transfer Syntax UID says so",
        )
    if value.little_endian or (width == 1 and value.vr == "OB"):
        pixels = np.frombuffer(value.data, dtype=f"<u{width}", count=count)
    else:
        # Words of big endian are swapped also where each holds two samples (PS3.5 8.1.1).
        words = np.frombuffer(value.data[: len(value.data) // 2 * 2], dtype=">u2").astype("<u2")
        pixels = words.view(f"<u{width}")[:count]
    if header.paired:
        if header.columns % 2:
            raise UnreadableInput("(0028,0011) Columns is odd; YBR_FULL_422 has pairs of pixels; check its export")
        pairs = pixels.reshape(header.rows, header.columns // 2, 4)
        chroma = np.repeat(pairs[..., 2:], 2, axis=1)
        gray = pairs[..., :2].reshape(header.rows, header.columns, 1)
        return Samples(np.concatenate([gray, chroma], axis=-1), header.bits_allocated, False, warnings)
    if header.samples == 3 and header.by_plane:
        return Samples(np.moveaxis(pixels.reshape(3, *shape[:2]), 0, -1), header.bits_allocated, False, warnings)
    return Samples(pixels.reshape(shape), header.bits_allocated, False, warnings)


def stored_codes(samples: Samples, header: DicomHeader) -> np.ndarray:
    """Codes, (rows, columns, samples) uint8 or uint16: the stored bits, without sign.

    What lies above Bits Stored is other data, and cut off. Only where the coding has loss it is a value beyond the
    range, as black and white edges have: the nearest that can be stored is meant.
    """
    bits, signed, pixels = header.gray_scale.bits_stored, header.gray_scale.signed, samples.pixels
    if pixels.shape != (header.rows, header.columns, header.samples) or pixels.dtype.kind not in "iu":
        raise UnreadableInput(f"{PIXEL_DATA} does not decode to {header.rows} x {header.columns} whole numbers")
    size = 8 * pixels.dtype.itemsize
    if size > 16:
        raise UnreadableInput(f"{PIXEL_DATA} has samples of {samples.precision} bits; allowed: at most 16")
    pixels = pixels.astype(f"{pixels.dtype.kind}{2 if bits > 8 else pixels.dtype.itemsize}", copy=False)
    size = 8 * pixels.dtype.itemsize
    if signed and pixels.dtype.kind == "u":
        # JPEG knows no sign: the highest of its bits is one.
        shift = size - samples.precision
        pixels = (pixels << shift).view(f"i{size // 8}") >> shift
    elif not signed and pixels.dtype.kind == "i":
        pixels = pixels.view(f"u{size // 8}") & (2**samples.precision - 1)
    if samples.overshoots:
        lowest = -(2 ** (bits - 1)) if signed else 0
        pixels = np.clip(pixels, lowest, lowest + 2**bits - 1)
    return (pixels.view(f"u{size // 8}") & (2**bits - 1)).astype(np.uint16 if bits > 8 else np.uint8, copy=False)


def gray_of(codes: np.ndarray, header: DicomHeader) -> np.ndarray:
    """The luma, (rows, columns), of a picture whose components say nearly the same, or have no chroma.

    Raises Refused (422) if the picture has colors.
    """
    first = codes[..., 0]
    if header.samples == 1:
        return first
    bits = header.gray_scale.bits_stored
    # Gray as RGB repeats its values; as YBR its chroma is in the middle (PS3.3 C.7.6.3.1.2).
    others = codes[..., 1:]
    as_rgb = _share_apart(others, first, bits)
    as_ybr = _share_apart(others, np.broadcast_to(codes.dtype.type(2 ** (bits - 1)), first.shape), bits)
    if min(as_rgb, as_ybr) > COLOR_SHARE:
        raise Refused(
            "photometric: (0028,0004) Photometric Interpretation says color, and the pixels have colors; allowed: "
            "MONOCHROME1, MONOCHROME2, or gray pixels; send the original radiograph, not a color capture"
        )
    if as_ybr < as_rgb:
        return np.ascontiguousarray(first)
    # A tint, as of blue film, and markers are within the limits: luma is what a person sees of them.
    flat, gray = codes.reshape(-1, header.samples), np.empty(first.size, dtype=codes.dtype)
    for piece in pieces(first.size):
        gray[piece] = luma(flat[piece])
    return gray.reshape(first.shape)


def _share_apart(others: np.ndarray, one: np.ndarray, bits: int) -> float:
    """The share of pixels in which another component differs by more than COLOR_LEVELS of 256.

    others : (rows, columns, 2)
    one    : (rows, columns)
    """
    limit = COLOR_LEVELS * 2**bits / 256
    apart = 0
    for row, one_row in zip(others, one, strict=True):
        apart += int((np.abs(row.astype(np.int32) - one_row[:, None]) > limit).any(axis=-1).sum())
    return apart / one.size
