"""Encapsulated pixel data -> samples, by what the codestream is and not by what its transfer syntax says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import imagecodecs
import numpy as np

from prelim.errors import Refused, UnreadableInput
from prelim.images.decoder_fence import allow_cpu_seconds, fence
from prelim.images.dicom.codestream import (
    LOSSY_SYNTAXES,
    PIXEL_DATA,
    SYNTAX_FAMILY,
    Codestream,
    Family,
    check_codestream,
    read_codestream,
)
from prelim.images.dicom.gdcm_decoder import decode_by_gdcm
from prelim.images.dicom.header import DicomHeader
from prelim.images.dicom.rle import decode_rle, is_rle
from prelim.images.dicom.transfer_syntax import NATIVE, RLE, unsupported
from prelim.images.dicom.values import standard_name
from prelim.images.input_config import JPEG2000_SECONDS_PER_PIXEL
from prelim.images.jpeg_end import END, is_whole
from prelim.images.jpeg_intervals import has_all_data

# First bytes of files that careless converters wrap into Pixel Data.
OTHER_FILES = {
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
    b"RIFF": "WebP",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
}


@dataclass(frozen=True)
class Samples:
    """Decoded pixel data.

    pixels     : (rows, columns, samples) of any whole type
    precision  : bits that a sample has in the codestream
    overshoots : the coding has loss, so that values beyond Bits Stored are errors of it and not other data
    """

    pixels: np.ndarray
    precision: int
    overshoots: bool
    warnings: tuple[str, ...] = ()


def decode_encapsulated(stream: bytes, header: DicomHeader, syntax: str) -> Samples:
    """Decode the one frame of encapsulated pixel data, the fragments joined.

    Raises UnreadableInput (400) for damage, Refused (422) for what no decoder here reads.
    """
    codestream = read_codestream(stream)
    if codestream is None:
        return _decode_other(stream, header, syntax)
    check_codestream(codestream, header.rows, header.columns, header.samples, header.bits_allocated)
    warnings = []
    if syntax not in codestream.syntaxes:
        warnings.append(_other_syntax(codestream.family.value, codestream.syntaxes, syntax))
    if not codestream.complete:
        warnings.append(f"no_end_marker: {PIXEL_DATA} has no end marker; its picture is complete")
    with fence(PIXEL_DATA):
        pixels = _decode(codestream, header, warnings)
    lossy = header.lossy or not codestream.reversible or syntax in LOSSY_SYNTAXES
    return Samples(pixels.reshape((*pixels.shape[:2], -1)), codestream.precision, lossy, tuple(warnings))


def _decode_other(stream: bytes, header: DicomHeader, syntax: str) -> Samples:
    """Decode RLE, which has no marker to know it by; refuse the rest for a true reason."""
    if syntax == RLE or is_rle(stream, header.samples, header.bits_allocated):
        pixels = decode_rle(stream, header.rows, header.columns, header.samples, header.bits_allocated)
        warnings = () if syntax == RLE else (_other_syntax("RLE", (RLE,), syntax),)
        return Samples(pixels, header.bits_allocated, overshoots=False, warnings=warnings)
    kind = next((kind for start, kind in OTHER_FILES.items() if stream.startswith(start)), None)
    if kind is not None and (syntax in SYNTAX_FAMILY or syntax in NATIVE):
        raise Refused(f"not supported: {kind}: {PIXEL_DATA} holds a {kind} file, which is not read here")
    if syntax in SYNTAX_FAMILY or syntax in NATIVE:
        raise UnreadableInput(f"{PIXEL_DATA} holds no codestream of its transfer syntax: it is damaged; send it again")
    raise unsupported(syntax)


def _other_syntax(kind: str, syntaxes: tuple[str, ...], said: str) -> str:
    """The warning that pixels are of another transfer syntax than the file says."""
    return (
        f"transfer_syntax: {PIXEL_DATA} is {kind} of {' or '.join(map(standard_name, syntaxes[:2]))}; "
        f"(0002,0010) Transfer Syntax UID says {standard_name(said)}"
    )


def _decode(codestream: Codestream, header: DicomHeader, warnings: list[str]) -> np.ndarray:
    if codestream.family is Family.JPEG_2000:
        if not codestream.complete:
            raise UnreadableInput(_TRUNCATED)
        allow_cpu_seconds(JPEG2000_SECONDS_PER_PIXEL * header.rows * header.columns * header.samples)
        return np.asarray(imagecodecs.jpeg2k_decode(codestream.data))
    if codestream.family is Family.JPEG_LS:
        return _decode_jpeg_ls(codestream, header, warnings)
    data = codestream.data.removesuffix(END) + END
    decode = partial(_decode_jpeg, components=header.samples)
    pixels = decode(data)
    lossy_8_bit = codestream.precision == 8 and not codestream.reversible
    if not (is_whole(data) if lossy_8_bit else has_all_data(data, pixels, decode)):
        raise UnreadableInput(_TRUNCATED)
    return pixels


_TRUNCATED = f"{PIXEL_DATA} lacks a part of its picture: it is truncated or damaged; send it again"


def _decode_jpeg(stream: bytes, components: int) -> np.ndarray:
    """The components as they are coded, without a guess whether three of them are RGB or YBR."""
    space = None if components == 1 else "YCBCR"
    return np.asarray(imagecodecs.jpeg8_decode(stream, colorspace=space, outcolorspace=space))


def _decode_jpeg_ls(codestream: Codestream, header: DicomHeader, warnings: list[str]) -> np.ndarray:
    try:
        return np.asarray(imagecodecs.jpegls_decode(codestream.data if codestream.complete else codestream.data + END))
    except Exception:
        if not codestream.complete or codestream.components != 1:
            raise
    # The CharLS of gdcm is older and takes what the present one is too strict for. The codestream has its end.
    pixels = decode_by_gdcm(
        codestream.data,
        codestream.syntaxes[0],
        (header.rows, header.columns),
        bits_allocated=header.bits_allocated,
    )
    warnings.append(f"codestream: {PIXEL_DATA} is not quite JPEG-LS; its picture is what an older decoder makes of it")
    return pixels
