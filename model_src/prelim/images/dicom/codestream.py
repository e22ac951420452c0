"""Encapsulated pixel data: its fragments joined, and what a codestream claims for itself, before anything is decoded.

What a codestream is follows from its own markers. Files exist whose Transfer Syntax UID says something else, and every
decoder here reads all that its family has.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from struct import Struct, unpack_from

from prelim.errors import Refused, UnreadableInput
from prelim.images.jpeg_end import END, START_OF_SCAN, read_segments

PIXEL_DATA = "(7FE0,0010) Pixel Data"
NOT_A_CODESTREAM = f"{PIXEL_DATA} holds no codestream of its transfer syntax: it is damaged; send it again"


class Family(Enum):
    """The kinds of codestream, by the library that decodes them."""

    JPEG = "JPEG"
    JPEG_LS = "JPEG-LS"
    JPEG_2000 = "JPEG 2000"


# PS3.5 A.4. Two families of one transfer syntax would be two entries; there are none.
SYNTAX_FAMILY = {
    **{f"1.2.840.10008.1.2.4.{number}": Family.JPEG for number in (50, 51, 53, 55, 57, 70)},
    **{f"1.2.840.10008.1.2.4.{number}": Family.JPEG_LS for number in (80, 81)},
    **{f"1.2.840.10008.1.2.4.{number}": Family.JPEG_2000 for number in (90, 91, 201, 202, 203)},
}
LOSSY_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 81, 91, 203))

# ISO/IEC 10918-1 table B.1: the frame headers of each transfer syntax of JPEG.
JPEG_FRAMES = {
    0xC0: ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"),
    0xC1: ("1.2.840.10008.1.2.4.51",),
    0xC2: ("1.2.840.10008.1.2.4.53", "1.2.840.10008.1.2.4.55"),
    0xC3: ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"),
}
LOSSLESS_FRAME, JPEG_LS_FRAME = 0xC3, 0xF7
# Precision, rows, columns and number of components (ISO/IEC 10918-1 B.2.2).
FRAME_HEADER = Struct(">BHHB")
START_OF_TILE_PART = 0xFF90
# DHT, JPG and DAC have codes among those of the frame headers, C0 to CF, but are not frame headers.
NO_FRAME_HEADERS = (0xC4, 0xC8, 0xCC)

# ISO/IEC 15444-1 A.4.2 numbers tiles with 16 bits; a decoder allocates for every tile that is declared.
MAX_TILES = 65535


@dataclass(frozen=True)
class Codestream:
    """One codestream, and what it claims for itself.

    data       : from its first marker to its last, without padding; `complete`: it has its last marker
    precision  : bits of a sample; `signed`: whether samples may be negative, which only JPEG 2000 knows
    reversible : decoded, it gives the samples that were encoded
    syntaxes   : the transfer syntaxes that it belongs to
    """

    family: Family
    data: bytes
    complete: bool
    rows: int
    columns: int
    components: int
    precision: int
    signed: bool
    reversible: bool
    syntaxes: tuple[str, ...]


def join_fragments(value: bytes) -> bytes:
    """All fragments of a value of encapsulated pixel data as one stream (PS3.5 A.4).

    The image has one frame, so all fragments belong to it, whatever the Basic Offset Table says.

    Raises Refused (422) if several of them begin a codestream: these are frames that the header does not count.
    """
    fragments, position = [], 0
    while position + 8 <= len(value):
        group, element, length = unpack_from("<HHL", value, position)
        if (group, element) != (0xFFFE, 0xE000) or position + 8 + length > len(value):
            break
        fragments.append(value[position + 8 : position + 8 + length])
        position += 8 + length
    frames = sum(map(is_codestream, fragments))
    if frames > 1:
        raise Refused(f"multi_frame: {PIXEL_DATA} has {frames} codestreams; allowed: 1; send one frame")
    # The first item is the table; files exist that have none and begin with the codestream.
    has_table = not fragments or not fragments[0].startswith((b"\xff\xd8\xff", b"\xff\x4f\xff\x51"))
    return b"".join(fragments[1:] if has_table else fragments)


def is_codestream(data: bytes) -> bool:
    """Whether bytes begin as JPEG, JPEG-LS, a JPEG 2000 codestream or its JP2 file do."""
    return data.startswith((b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "))


def read_codestream(stream: bytes) -> Codestream | None:
    """What the headers of a stream say, or None if it is neither JPEG nor JPEG-LS nor JPEG 2000.

    Raises UnreadableInput (400) for headers that are damaged, Refused (422) for valid ones that no decoder reads.
    """
    if stream.startswith(b"\xff\xd8"):
        return _read_jpeg(stream)
    # Bare, or in the boxes of a JP2 file.
    start = stream[:4096].find(b"\xff\x4f\xff\x51")
    if start == 0 or (start > 0 and stream[4:8] == b"jP  "):
        return _read_jpeg2000(stream[start:])
    return None


def check_codestream(stream: Codestream, rows: int, columns: int, samples: int, bits_allocated: int) -> None:
    """Compare a codestream with what the DICOM header says of it; raises UnreadableInput (400) if they differ."""
    if (stream.rows, stream.columns) != (rows, columns):
        raise UnreadableInput(
            f"codestream_size: {PIXEL_DATA} holds {stream.rows} x {stream.columns} pixels; (0028,0010) Rows and "
            f"(0028,0011) Columns say {rows} x {columns}; check its export"
        )
    if stream.components != samples or stream.precision > bits_allocated:
        raise UnreadableInput(
            f"{PIXEL_DATA} holds {stream.components} components of {stream.precision} bits; the header says {samples} "
            f"of at most {bits_allocated}; check its export"
        )


def _read_jpeg(stream: bytes) -> Codestream:
    """Walk the segments of JPEG (ISO/IEC 10918-1 B.2) or JPEG-LS (ISO/IEC 14495-1 C.2) up to the first scan."""
    frame: tuple[int, int, int, int, int] | None = None
    for marker, start, end in read_segments(stream):
        if marker == START_OF_SCAN and frame is not None and end <= len(stream):
            return _jpeg_codestream(stream, end, frame)
        is_frame = marker == JPEG_LS_FRAME or (0xC0 <= marker <= 0xCF and marker not in NO_FRAME_HEADERS)
        if is_frame and start + FRAME_HEADER.size <= min(end, len(stream)):
            frame = (marker, *FRAME_HEADER.unpack_from(stream, start))
    raise UnreadableInput(NOT_A_CODESTREAM)


def _jpeg_codestream(stream: bytes, data_start: int, frame: tuple[int, int, int, int, int]) -> Codestream:
    marker, precision, rows, columns, components = frame
    if marker not in JPEG_FRAMES and marker != JPEG_LS_FRAME:
        raise Refused(
            f"transfer_syntax: {PIXEL_DATA} is hierarchical or arithmetic-coded JPEG (frame header FF{marker:02X}), "
            "which is not supported; let the PACS decode it and send Explicit VR Little Endian"
        )
    # Neither coding leaves FFD9 in its data: JPEG puts 00 after FF, JPEG-LS a 0 bit.
    end = stream.find(END, data_start)
    is_jpeg_ls = marker == JPEG_LS_FRAME
    # The last three bytes of the scan header: NEAR, interleave, point transform; or predictor, -, point transform.
    near, point_transform = stream[data_start - 3], stream[data_start - 1] & 0x0F
    lossless = near == 0 if is_jpeg_ls else marker == LOSSLESS_FRAME and point_transform == 0
    return Codestream(
        family=Family.JPEG_LS if is_jpeg_ls else Family.JPEG,
        data=stream if end < 0 else stream[: end + 2],
        complete=end >= 0,
        rows=rows,
        columns=columns,
        components=components,
        precision=precision,
        signed=False,
        reversible=lossless,
        syntaxes=(_JPEG_LS_SYNTAXES if is_jpeg_ls else JPEG_FRAMES[marker]),
    )


_JPEG_LS_SYNTAXES = tuple(syntax for syntax, family in SYNTAX_FAMILY.items() if family is Family.JPEG_LS)
_JPEG_2000_SYNTAXES = tuple(syntax for syntax, family in SYNTAX_FAMILY.items() if family is Family.JPEG_2000)


def _read_jpeg2000(stream: bytes) -> Codestream:
    """Read the main header of a JPEG 2000 codestream (ISO/IEC 15444-1 A.5 and A.6)."""
    if len(stream) < 43:
        raise UnreadableInput(NOT_A_CODESTREAM)
    right, bottom, left, top, tile_width, tile_height, tiles_left, tiles_top = unpack_from(">8L", stream, 8)
    components, depth = unpack_from(">HB", stream, 40)
    if not tile_width or not tile_height or right <= left or bottom <= top:
        raise UnreadableInput(f"{PIXEL_DATA} holds an empty codestream: it is damaged; send it again")
    if -(-right // tile_width) * -(-bottom // tile_height) > MAX_TILES:
        raise UnreadableInput(f"{PIXEL_DATA} declares more than {MAX_TILES} tiles; check its export")
    position, reversible = 2, False
    while position + 4 <= len(stream):
        marker, length = unpack_from(">HH", stream, position)
        if marker == START_OF_TILE_PART:
            break
        # COD: the last byte but the precincts' is the transformation, 1 for the reversible 5-3.
        if marker == 0xFF52 and position + 14 <= len(stream):
            reversible = stream[position + 13] == 1
        position += 2 + max(2, length)
    tiles = -(-(right - tiles_left) // tile_width) * -(-(bottom - tiles_top) // tile_height)
    end = _end_of_tiles(stream, position, tiles)
    return Codestream(
        family=Family.JPEG_2000,
        data=stream if end is None else stream[:end] + END,
        complete=end is not None,
        rows=bottom - top,
        columns=right - left,
        components=components,
        precision=(depth & 0x7F) + 1,
        signed=depth >= 0x80,
        reversible=reversible,
        syntaxes=_JPEG_2000_SYNTAXES,
    )


def _end_of_tiles(stream: bytes, position: int, tiles: int) -> int | None:
    """Where the last tile-part ends, or None if the stream ends before (A.4.2: SOT)."""
    seen = set()
    while position + 12 <= len(stream) and unpack_from(">H", stream, position)[0] == START_OF_TILE_PART:
        tile, length = unpack_from(">HL", stream, position + 4)
        seen.add(tile)
        if length == 0:
            # Up to the end of the codestream; no coded data hold FF90 to FFFF.
            end = stream.find(END, position + 12)
            return end if end >= 0 else None
        if length < 14 or position + length > len(stream):
            break
        position += length
        if stream[position : position + 2] == END or (len(seen) == tiles and not stream[position:].strip(b"\0")):
            return position
    # The lengths are wrong, and yet the end is there.
    stripped = stream.rstrip(b"\0")
    return len(stripped) - 2 if stripped.endswith(END) else None
