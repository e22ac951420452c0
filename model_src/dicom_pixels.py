"""DICOM file -> pixels: the codestream's own size against the header's, then decoding, then grey."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from struct import unpack_from

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from model_src.decoder_fence import fenced
from model_src.dicom_grey import grey_table
from model_src.dicom_header import DicomHeader, check_header
from model_src.dicom_structure import DEFLATED, EXPLICIT_LITTLE, read_data_set
from model_src.dicom_values import named, parse, standard_name
from model_src.errors import Refused, UnreadableInput
from model_src.input_config import InputConfig

NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")
RLE = "1.2.840.10008.1.2.5"

# One decoder for every transfer syntax: pydicom would try several in turn, and a second one that accepts what the
# first refused as damaged returns a picture with a part of it missing.
DECODERS = {
    RLE: "pylibjpeg",
    "1.2.840.10008.1.2.4.50": "pillow",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
}
LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203")

# The frame header that belongs to each JPEG family (ISO/IEC 10918-1 table B.1, 14495-1 C.1.1).
FRAME_MARKERS = {
    "1.2.840.10008.1.2.4.50": (0xC0,),
    "1.2.840.10008.1.2.4.57": (0xC3,),
    "1.2.840.10008.1.2.4.70": (0xC3,),
    "1.2.840.10008.1.2.4.80": (0xF7,),
    "1.2.840.10008.1.2.4.81": (0xF7,),
}

# ISO/IEC 15444-1 A.4.2 numbers tiles with 16 bits; a decoder allocates for every tile that is declared.
MAX_TILES = 65535


@dataclass(frozen=True)
class Frame:
    """Size and depth that a codestream claims for itself."""

    rows: int
    columns: int
    components: int
    precision: int


def read_dicom(data: bytes, config: InputConfig) -> tuple[np.ndarray, DicomHeader]:
    """Return pixels, (rows, columns) float32 in [0, 1], high is white, and the header with all warnings.

    Raises InputError as `read_radiograph` says.
    """
    data_set = read_data_set(data, config.max_bytes)
    dataset = parse(data_set)
    header = check_header(dataset, config)
    syntax = data_set.transfer_syntax
    if syntax in NATIVE:
        _check_native(dataset, header)
    else:
        _check_encapsulated(dataset, header, syntax)
    dataset.set_original_encoding(data_set.implicit, data_set.little_endian)
    codes = _decode(dataset, header, syntax)
    counts = np.bincount(codes.ravel(), minlength=2**header.grey_scale.bits_stored)
    table, warnings = grey_table(header.grey_scale, counts, config.render)
    if header.lossy or syntax in LOSSY:
        warnings = ("lossy: the image was compressed with loss", *warnings)
    return table[codes], replace(header, warnings=(*header.warnings, *warnings))


def _check_native(dataset: Dataset, header: DicomHeader) -> None:
    needed = header.rows * header.columns * header.bits_allocated // 8
    with fenced(named("PixelData")):
        found = len(dataset.PixelData)
    if found < needed:
        raise UnreadableInput(
            f"{named('PixelData')} has {found} bytes; {header.rows} x {header.columns} pixels of "
            f"{header.bits_allocated} bits need {needed}: it is truncated; send it again"
        )


def _check_encapsulated(dataset: Dataset, header: DicomHeader, syntax: str) -> None:
    """Compare what the codestream claims with the header before a decoder allocates for it."""
    if syntax not in DECODERS:
        raise Refused(
            f"transfer_syntax: (0002,0010) Transfer Syntax UID is {standard_name(syntax)}, for which there is no "
            "decoder here; let the PACS decode it and send Explicit VR Little Endian"
        )
    with fenced(named("PixelData")):
        stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    if syntax == RLE:
        _check_rle(stream, header)
        return
    # 64 bytes, because padding and trailing zeros follow the end marker in some files.
    if b"\xff\xd9" not in stream[-64:]:
        raise UnreadableInput(f"{named('PixelData')} ends without an end marker: it is truncated; send it again")
    frame = read_jpeg_frame(stream, FRAME_MARKERS[syntax]) if syntax in FRAME_MARKERS else read_jpeg2000_frame(stream)
    if (frame.rows, frame.columns) != (header.rows, header.columns):
        raise UnreadableInput(
            f"codestream_size: {named('PixelData')} holds {frame.rows} x {frame.columns} pixels; {named('Rows')} and "
            f"{named('Columns')} say {header.rows} x {header.columns}; check its export"
        )
    if frame.components != 1 or frame.precision > header.bits_allocated:
        raise UnreadableInput(
            f"{named('PixelData')} holds {frame.components} components of {frame.precision} bits; the header says 1 "
            f"of at most {header.bits_allocated}; check its export"
        )


def _check_rle(stream: bytes, header: DicomHeader) -> None:
    """Check an RLE header (PS3.5 G.5); a segment cannot grow more than 64-fold, for two bytes make at most 128."""
    segments = header.bits_allocated // 8
    if len(stream) < 64 or unpack_from("<L", stream)[0] != segments:
        raise UnreadableInput(f"{named('PixelData')} has a damaged RLE header; expected {segments} segments")
    offsets = [*unpack_from(f"<{segments}L", stream, 4), len(stream)]
    needed = header.rows * header.columns
    for start, end in pairwise(offsets):
        if not 64 <= start <= end <= len(stream) or (end - start) * 64 < needed:
            raise UnreadableInput(f"{named('PixelData')} has an RLE segment too short for {needed} pixels")


def read_jpeg_frame(stream: bytes, markers: tuple[int, ...]) -> Frame:
    """Read the frame header of a JPEG or JPEG-LS codestream (ISO/IEC 10918-1 B.2.2).

    Raises UnreadableInput (400) if there is none of the given kind.
    """
    position = 2
    while stream[:2] == b"\xff\xd8" and position + 10 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker in markers:
            precision, rows, columns, components = unpack_from(">BHHB", stream, position + 4)
            return Frame(rows, columns, components, precision)
        if marker == 0xFF:
            position += 1
        elif marker == 0xDA or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            break
        else:
            position += 2 + max(2, unpack_from(">H", stream, position + 2)[0])
    raise UnreadableInput(f"{named('PixelData')} holds no codestream of its transfer syntax: it is damaged")


def read_jpeg2000_frame(stream: bytes) -> Frame:
    """Read the SIZ segment of a JPEG 2000 codestream (ISO/IEC 15444-1 A.5.1), bare or in a JP2 file.

    Raises UnreadableInput (400) if there is none, or if it declares thousands of tiles.
    """
    start = stream[:4096].find(b"\xff\x4f\xff\x51")
    if start < 0 or len(stream) < start + 43:
        raise UnreadableInput(f"{named('PixelData')} holds no codestream of its transfer syntax: it is damaged")
    right, bottom, left, top, tile_width, tile_height = unpack_from(">6L", stream, start + 8)
    components, precision = unpack_from(">HB", stream, start + 40)
    if not tile_width or not tile_height or right <= left or bottom <= top:
        raise UnreadableInput(f"{named('PixelData')} holds an empty codestream: it is damaged")
    if -(-right // tile_width) * -(-bottom // tile_height) > MAX_TILES:
        raise UnreadableInput(f"{named('PixelData')} declares more than {MAX_TILES} tiles; check its export")
    return Frame(bottom - top, right - left, components, (precision & 0x7F) + 1)


def _decode(dataset: Dataset, header: DicomHeader, syntax: str) -> np.ndarray:
    """Return codes, (rows, columns) uint8 or uint16: the stored bits without sign and without what lies above them."""
    scale = header.grey_scale
    # The data set is inflated already.
    uid = EXPLICIT_LITTLE if syntax == DEFLATED else syntax
    with fenced(named("PixelData")):
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(uid)
        dataset.SamplesPerPixel = 1
        dataset.BitsStored = scale.bits_stored
        dataset.PixelRepresentation = int(scale.signed)
        dataset.NumberOfFrames = 1
        pixels, _ = get_decoder(UID(uid)).as_array(dataset, raw=True, decoding_plugin=DECODERS.get(syntax, ""))
    if pixels.shape != (header.rows, header.columns) or pixels.dtype.kind not in "iu":
        raise UnreadableInput(f"{named('PixelData')} does not decode to {header.rows} x {header.columns} whole numbers")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    unsigned = pixels.view(f"u{pixels.dtype.itemsize}")
    codes: np.ndarray = (unsigned & (2**scale.bits_stored - 1)).astype(np.uint16 if scale.bits_stored > 8 else np.uint8)
    return codes
