"""Encapsulated pixel data: what a codestream claims for itself, read before any decoder allocates for it; and RLE."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from struct import unpack_from

import numpy as np

from prelim.errors import UnreadableInput

PIXEL_DATA = "(7FE0,0010) Pixel Data"

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")

# The frame header that belongs to each JPEG family (ISO/IEC 10918-1 table B.1, 14495-1 C.1.1).
FRAME_MARKERS = {
    JPEG_BASELINE: 0xC0,
    **dict.fromkeys(JPEG_LOSSLESS, 0xC3),
    **dict.fromkeys(JPEG_LS, 0xF7),
}
START_OF_SCAN = 0xDA
# DHT, JPG and DAC lie among the frame headers C0 to CF but are none.
NO_FRAME_HEADERS = (0xC4, 0xC8, 0xCC)

# ISO/IEC 15444-1 A.4.2 numbers tiles with 16 bits; a decoder allocates for every tile that is declared.
MAX_TILES = 65535


@dataclass(frozen=True)
class Frame:
    """Size and depth that a codestream claims for itself."""

    rows: int
    columns: int
    components: int
    precision: int


def check_codestream(stream: bytes, syntax: str, rows: int, columns: int, bits_allocated: int) -> None:
    """Compare a JPEG, JPEG-LS or JPEG 2000 codestream with what the DICOM header says of it.

    Raises UnreadableInput (400) if they differ, or if the codestream has no end.
    """
    # 64 bytes, because padding and trailing zeros follow the end marker in some files.
    if b"\xff\xd9" not in stream[-64:]:
        raise UnreadableInput(f"{PIXEL_DATA} ends without an end marker: it is truncated; send it again")
    marker = FRAME_MARKERS.get(syntax)
    frame = read_jpeg2000_frame(stream) if marker is None else read_jpeg_frame(stream, marker)
    if (frame.rows, frame.columns) != (rows, columns):
        raise UnreadableInput(
            f"codestream_size: {PIXEL_DATA} holds {frame.rows} x {frame.columns} pixels; (0028,0010) Rows and "
            f"(0028,0011) Columns say {rows} x {columns}; check its export"
        )
    if frame.components != 1 or frame.precision > bits_allocated:
        raise UnreadableInput(
            f"{PIXEL_DATA} holds {frame.components} components of {frame.precision} bits; the header says 1 of at "
            f"most {bits_allocated}; check its export"
        )


def read_jpeg_frame(stream: bytes, frame_marker: int) -> Frame:
    """Read the frame header of a JPEG or JPEG-LS codestream (ISO/IEC 10918-1 B.2.2).

    Raises UnreadableInput (400) if there is none of the given kind before the first scan.
    """
    position = 2
    while stream[:2] == b"\xff\xd8" and position + 10 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == frame_marker:
            precision, rows, columns, components = unpack_from(">BHHB", stream, position + 4)
            return Frame(rows, columns, components, precision)
        if marker == START_OF_SCAN or (0xC0 <= marker <= 0xCF and marker not in NO_FRAME_HEADERS):
            break
        # Any number of FF may fill the space before a marker (B.1.1.2).
        position += 1 if marker == 0xFF else 2 + max(2, unpack_from(">H", stream, position + 2)[0])
    raise UnreadableInput(f"{PIXEL_DATA} holds no codestream of its transfer syntax: it is damaged; send it again")


def read_jpeg2000_frame(stream: bytes) -> Frame:
    """Read the SIZ segment of a JPEG 2000 codestream (ISO/IEC 15444-1 A.5.1), bare or in a JP2 file.

    Raises UnreadableInput (400) if there is none, or if it declares more tiles than can be numbered.
    """
    start = stream[:4096].find(b"\xff\x4f\xff\x51")
    if start < 0 or len(stream) < start + 43:
        raise UnreadableInput(f"{PIXEL_DATA} holds no codestream of its transfer syntax: it is damaged; send it again")
    right, bottom, left, top, tile_width, tile_height = unpack_from(">6L", stream, start + 8)
    components, precision = unpack_from(">HB", stream, start + 40)
    if not tile_width or not tile_height or right <= left or bottom <= top:
        raise UnreadableInput(f"{PIXEL_DATA} holds an empty codestream: it is damaged; send it again")
    if -(-right // tile_width) * -(-bottom // tile_height) > MAX_TILES:
        raise UnreadableInput(f"{PIXEL_DATA} declares more than {MAX_TILES} tiles; check its export")
    return Frame(bottom - top, right - left, components, (precision & 0x7F) + 1)


def decode_rle(stream: bytes, rows: int, columns: int, bits_allocated: int) -> np.ndarray:
    """Return (rows, columns) uint8 or uint16 of RLE Lossless (PS3.5 annex G).

    Written here because pylibjpeg-rle panics on damaged data, which is no Exception, and pydicom's own unpacks
    whatever a segment holds, however much: here no more than the image needs.

    Raises UnreadableInput (400) if a segment is missing or short.
    """
    segments = bits_allocated // 8
    if len(stream) < 64 or unpack_from("<L", stream)[0] != segments:
        raise UnreadableInput(f"{PIXEL_DATA} has a damaged RLE header; expected {segments} segments; send it again")
    offsets = [*unpack_from(f"<{segments}L", stream, 4), len(stream)]
    pixels: np.ndarray = np.zeros(rows * columns, dtype=np.uint8 if segments == 1 else np.uint16)
    for start, end in pairwise(offsets):
        if not 64 <= start <= end <= len(stream):
            raise UnreadableInput(f"{PIXEL_DATA} has an RLE segment outside of its bytes: it is damaged; send it again")
        plane = np.frombuffer(_unpack_bits(stream[start:end], rows * columns), dtype=np.uint8)
        # PS3.5 G.2: the segment of the most significant byte is the first.
        pixels = plane if segments == 1 else pixels << np.uint16(8) | plane
    return pixels.reshape(rows, columns)


def _unpack_bits(segment: bytes, size: int) -> bytes:
    """Return the first `size` bytes of an RLE segment (PS3.5 G.3.2)."""
    unpacked, position = bytearray(), 0
    while len(unpacked) < size and position + 1 < len(segment):
        header = segment[position]
        if header < 128:
            unpacked += segment[position + 1 : position + 2 + header]
            position += 2 + header
        elif header > 128:
            unpacked += segment[position + 1 : position + 2] * (257 - header)
            position += 2
        else:
            position += 1
    if len(unpacked) < size:
        raise UnreadableInput(
            f"{PIXEL_DATA} has an RLE segment of {len(unpacked)} bytes; the header says {size}: it is truncated or "
            "damaged; send it again"
        )
    return bytes(unpacked[:size])
