"""The chunks of a PNG file that decide its picture: a fault in any other is not a fault of the picture."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from prelim.errors import UnreadableInput

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# The ancillary chunks that are read: transparency, and those by which an animation is known.
KEPT = (b"tRNS", b"acTL", b"fcTL", b"fdAT")

# Writers with small buffers make an IDAT of every few kilobytes.
MAX_CHUNKS = 100_000


def read_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind of each chunk and all its bytes (ISO/IEC 15948 5.3) up to IEND; the last may be cut short.

    Raises UnreadableInput (400) for too many chunks.
    """
    position = len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        kind = data[position + 4 : position + 8]
        if len(kind) < 4:
            return
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        yield kind, data[position:end]
        if kind == b"IEND":
            return
        position = end
    raise UnreadableInput(f"the PNG image has more than {MAX_CHUNKS} chunks; save it again")


def keep_picture(data: bytes) -> tuple[bytes, bytes]:
    """A PNG file with the chunks that decide its picture alone, and its Exif block, b"" without a sound one."""
    parts, exif = [SIGNATURE], b""
    for kind, chunk in read_chunks(data):
        # Bit 5 of the first letter says whether a decoder may leave a chunk out (5.4).
        if not kind[0] & 0x20 or kind in KEPT:
            parts.append(chunk)
        elif kind == b"eXIf" and zlib.crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:]:
            exif = chunk[8:-4]
    return b"".join(parts), exif
