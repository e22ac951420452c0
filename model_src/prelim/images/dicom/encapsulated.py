"""Encapsulated pixel data -> samples, by what the codestream is and not by what its transfer syntax says."""

from __future__ import annotations

from dataclasses import dataclass

import imagecodecs
import numpy as np

from prelim.errors import Refused, UnreadableInput
from prelim.images.decoder_fence import allow_cpu_seconds, fence
from prelim.images.dicom.codestream import (
    END,
    LOSSY_SYNTAXES,
    PIXEL_DATA,
    SYNTAX_FAMILY,
    Codestream,
    Family,
    check_codestream,
    join_fragments,
    read_codestream,
)
from prelim.images.dicom.gdcm_decoder import decode_by_gdcm
from prelim.images.dicom.header import DicomHeader
from prelim.images.dicom.rle import decode_rle
from prelim.images.dicom.values import standard_name
from prelim.images.input_config import JPEG2000_SECONDS_PER_PIXEL

RLE = "1.2.840.10008.1.2.5"

# First bytes of files that careless converters wrap into Pixel Data.
OTHER_FILES = {b"\x89PNG": "PNG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"BM": "BMP", b"RIFF": "WebP"}

# Bytes that no end of a picture is: decoded with them instead of nothing, a truncated picture becomes another one.
FILLER = b"\x95\x2a" * 64


@dataclass(frozen=True)
class Samples:
    """Decoded pixel data.

    pixels      : (rows, columns, samples) of any whole type
    precision   bits that a sample has in the codestream
    overshoots  the coding has loss, so that values beyond Bits Stored are errors of it and not other data
    """

    pixels: np.ndarray
    precision: int
    overshoots: bool
    warnings: tuple[str, ...] = ()


def decode_encapsulated(value: bytes, header: DicomHeader, syntax: str) -> Samples:
    """Decode the one frame of encapsulated pixel data.

    Raises UnreadableInput (400) for damage, Refused (422) for what no decoder here reads.
    """
    stream = join_fragments(value)
    codestream = read_codestream(stream)
    if codestream is None:
        return Samples(_decode_other(stream, header, syntax), header.bits_allocated, overshoots=False)
    check_codestream(codestream, header.rows, header.columns, header.samples, header.bits_allocated)
    warnings = []
    if syntax not in codestream.syntaxes:
        warnings.append(
            f"transfer_syntax: {PIXEL_DATA} is {codestream.family.value} of "
            f"{' or '.join(map(standard_name, codestream.syntaxes[:2]))}; (0002,0010) Transfer Syntax UID says "
            f"{standard_name(syntax)}"
        )
    if not codestream.complete:
        warnings.append(f"no_end_marker: {PIXEL_DATA} has no end marker; its picture is complete")
    with fence(PIXEL_DATA):
        pixels = _decode(codestream, header, warnings)
    lossy = header.lossy or not codestream.reversible or syntax in LOSSY_SYNTAXES
    return Samples(pixels.reshape((*pixels.shape[:2], -1)), codestream.precision, lossy, tuple(warnings))


def _decode_other(stream: bytes, header: DicomHeader, syntax: str) -> np.ndarray:
    """Decode RLE, which has nothing to know it by; refuse the rest for a true reason."""
    if syntax == RLE:
        return decode_rle(stream, header.rows, header.columns, header.samples, header.bits_allocated)
    kind = next((kind for start, kind in OTHER_FILES.items() if stream.startswith(start)), None)
    if kind is not None:
        raise Refused(f"not supported: {PIXEL_DATA} holds a {kind} file, which is not one of DICOM's encodings")
    if syntax in SYNTAX_FAMILY:
        raise UnreadableInput(f"{PIXEL_DATA} holds no codestream of its transfer syntax: it is damaged; send it again")
    raise Refused(
        f"transfer_syntax: (0002,0010) Transfer Syntax UID is {standard_name(syntax)}, for which there is no "
        "decoder here; let the PACS decode it and send Explicit VR Little Endian"
    )


def _decode(codestream: Codestream, header: DicomHeader, warnings: list[str]) -> np.ndarray:
    if codestream.family is Family.JPEG_2000:
        if not codestream.complete:
            raise UnreadableInput(_TRUNCATED)
        allow_cpu_seconds(JPEG2000_SECONDS_PER_PIXEL * header.rows * header.columns * header.samples)
        return np.asarray(imagecodecs.jpeg2k_decode(codestream.data))
    if codestream.family is Family.JPEG_LS:
        return _decode_jpeg_ls(codestream, header, warnings)
    if codestream.complete:
        return _decode_jpeg(codestream.data, header.samples)
    # libjpeg pads what is missing and says nothing.
    pixels = _decode_jpeg(codestream.data + END, header.samples)
    if not np.array_equal(pixels, _decode_jpeg(codestream.data + FILLER + END, header.samples)):
        raise UnreadableInput(_TRUNCATED)
    return pixels


_TRUNCATED = f"{PIXEL_DATA} ends without an end marker and before its picture: it is truncated; send it again"


def _decode_jpeg(stream: bytes, components: int) -> np.ndarray:
    """Return the components as they are coded, without a guess whether three of them are RGB or YBR."""
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
        # gdcm masks what is above, also values that a coding with loss made.
        bits_stored=header.bits_allocated,
        signed=False,
    )
    warnings.append(f"codestream: {PIXEL_DATA} is not quite JPEG-LS; its picture is what an older decoder makes of it")
    return pixels
