"""Pixel data with nothing but its frames: what a decoder would skip is left out, because stations write names there.

Native pixels end with the last sample. Of a compressed stream the segments stay that a decoder needs: comments, Exif
and whatever follows its end are left out, and so is a picture whose stream cannot be followed. What is hidden in the
coded data itself stays, and whatever follows it where the stream has no end marker.

Sources: PS3.5 section 8 and annexes A.4 and G (RLE), ISO/IEC 10918-1 annex B (JPEG), ISO/IEC 14495-1 annex C (JPEG-LS),
ISO/IEC 15444-1 annex A (JPEG 2000).
"""

import re
import struct
from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_fragments, generate_frames
from pydicom.uid import RLELossless

ITEM = b"\xfe\xff\x00\xe0"
JPEG_START = b"\xff\xd8\xff"
JPEG_KEPT = frozenset((*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xF7, 0xF8)) - {0xC8}
"""Frame headers, tables, scans, restart intervals; FFF7 and FFF8 are those of JPEG-LS."""
ADOBE, ADOBE_BYTES = b"Adobe", 12
"""APP14, which says how colors are coded."""
JFIF = b"\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0"
"""APP0, which says so too, without density and thumbnail."""
AFTER_SCAN = re.compile(rb"\xff+[\x80-\xcf\xd8-\xfe]")
"""The next marker after coded data, which has FF only before 00 (JPEG-LS: below 80) and in restart markers."""

J2K_START = b"\xff\x4f\xff\x51"
J2K_COMMENT, J2K_TILE, J2K_DATA, J2K_END = 0xFF64, 0xFF90, 0xFF93, b"\xff\xd9"
RLE_HEADER = 64


class Unreadable(ValueError):
    """The pixel data does not have the form that its header says."""


def bare_pixels(image: Dataset) -> bytes | None:
    """Return the value of Pixel Data without what surrounds its frames, or None if it cannot be told from these.

    image : with its file meta information
    """
    element = image["PixelData"]
    try:
        pixels, size = bytes(element.value), _native_size(image)
        # Some stations write a stream, or its fragments, as if it were native.
        is_short = len(pixels) < size
        if pixels.startswith(ITEM) and (element.is_undefined_length or is_short):
            return encapsulate([_strip(frame, image) for frame in _frames(pixels, image)])
        if is_short and pixels.startswith((JPEG_START, J2K_START)):
            stream = _strip(pixels, image)
            return stream + b"\0" * (len(stream) % 2)
    except (Unreadable, AttributeError, TypeError, ValueError, IndexError, struct.error):
        return None
    # PS3.5 8.1.1: an even length. Too few samples are left for the server to refuse.
    return pixels[:size] + b"\0" * (min(size, len(pixels)) % 2)


def _frames(pixels: bytes, image: Dataset) -> Iterator[bytes]:
    """Yield the stream of each frame. The fragments of a single one are joined, whatever the offset table says."""
    frames = int(image.get("NumberOfFrames") or 1)
    if frames > 1:
        return generate_frames(pixels, number_of_frames=frames)
    _, *fragments = generate_fragments(pixels)
    return iter([b"".join(fragments)])


def _strip(stream: bytes, image: Dataset) -> bytes:
    """Return what a decoder needs of a frame. Its first bytes say what it is, as for the server."""
    if stream.startswith(JPEG_START):
        return _jpeg(stream)
    if stream.startswith(J2K_START):
        return _jpeg_2000(stream)
    if stream[4:8] == b"jP  ":
        return _jpeg_2000(_codestream(stream))
    if str(image.file_meta.TransferSyntaxUID) == RLELossless:
        return _rle(stream, image)
    raise Unreadable


def _native_size(image: Dataset) -> int:
    """Return how many bytes the samples of all frames take without compression."""
    samples = int(image.SamplesPerPixel)
    # PS3.3 C.7.6.3.1.2: of YBR_FULL_422 two pixels share their chroma.
    per_pixel = 2 if image.get("PhotometricInterpretation") == "YBR_FULL_422" else samples
    bits = int(image.Rows) * int(image.Columns) * per_pixel * int(image.BitsAllocated)
    return (bits * int(image.get("NumberOfFrames") or 1) + 7) // 8


def _jpeg(stream: bytes) -> bytes:
    """Return the segments of JPEG or JPEG-LS that describe the picture."""
    kept = []
    for marker, segment in _jpeg_segments(stream):
        if marker == 0xE0 and segment[4:9] == b"JFIF\0":
            kept.append(JFIF)
        elif marker == 0xEE and segment[4:].startswith(ADOBE):
            kept.append(b"\xff\xee\0\x0e" + segment[4 : 4 + ADOBE_BYTES].ljust(ADOBE_BYTES, b"\0"))
        elif marker in JPEG_KEPT or marker in (0xD8, 0xD9):
            kept.append(segment)
    return b"".join(kept)


def _jpeg_segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, segment with its marker) up to the end of the image; a scan with its coded data is one segment."""
    position = 0
    while position < len(stream):
        if stream[position] != 0xFF:
            raise Unreadable
        # B.1.1.2: fill bytes before a marker.
        while stream[position + 1] == 0xFF:
            position += 1
        marker, end = stream[position + 1], position + 2
        if marker not in (0xD8, 0xD9):
            end += struct.unpack_from(">H", stream, position + 2)[0]
        if marker == 0xDA:
            found = AFTER_SCAN.search(stream, end)
            end = found.start() if found else len(stream)
        yield marker, stream[position:end]
        if marker == 0xD9:
            return
        position = end


def _jpeg_2000(stream: bytes) -> bytes:
    """Return a codestream whose comments are zeros: of their length, which other segments count."""
    blank, position, data = bytearray(stream), 2, 0
    while position < len(stream) and stream[position : position + 2] != J2K_END:
        marker, length = struct.unpack_from(">HH", stream, position)
        if marker == J2K_TILE:
            tile_part = struct.unpack_from(">I", stream, position + 6)[0]
            # A.4.2: 0 is up to the end of the codestream.
            end = stream.find(J2K_END, position)
            data = position + tile_part if tile_part else end if end > 0 else len(stream)
        if marker == J2K_COMMENT:
            blank[position + 4 : position + 2 + length] = bytes(length - 2)
        if marker == J2K_DATA:
            if data <= position:
                raise Unreadable
            position = data
        else:
            position += 2 + length
    return bytes(blank[: position + 2])


def _codestream(file: bytes) -> bytes:
    """Return the codestream in a JP2 file (ISO/IEC 15444-1 annex I)."""
    position = 0
    while True:
        length, kind = struct.unpack_from(">I4s", file, position)
        start = 16 if length == 1 else 8
        if length == 1:
            length = struct.unpack_from(">Q", file, position + 8)[0]
        if kind == b"jp2c":
            return file[position + start : position + length if length else None]
        if length < start:
            raise Unreadable
        position += length


def _rle(stream: bytes, image: Dataset) -> bytes:
    """Return the segments of PS3.5 G.5, each up to its last byte of the picture."""
    count, *offsets = struct.unpack_from("<16I", stream)
    if not 1 <= count <= 15:
        raise Unreadable
    size = int(image.Rows) * int(image.Columns)
    segments = [_rle_segment(stream, offset, size) for offset in offsets[:count]]
    starts = [RLE_HEADER + sum(map(len, segments[:number])) for number in range(count)]
    return struct.pack("<16I", count, *starts, *[0] * (15 - count)) + b"".join(segments)


def _rle_segment(stream: bytes, start: int, size: int) -> bytes:
    """Return the packets that write so many bytes, to an even length."""
    position, written = start, 0
    while written < size:
        control = stream[position]
        if control < 128:
            written += control + 1
            position += control + 2
        else:
            # G.3.1: 128 writes nothing.
            written += 257 - control if control > 128 else 0
            position += 2 if control > 128 else 1
    if position > len(stream):
        raise Unreadable
    return stream[start:position] + b"\0" * ((position - start) % 2)
