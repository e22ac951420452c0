"""Where the picture of a JPEG file ends, and how to find out whether it is whole.

libjpeg pads a picture whose data are missing and says nothing. Bytes between the end of the data and the end marker
change nothing in a whole picture; a truncated one is decoded from them and becomes another one.
"""

from __future__ import annotations

from collections.abc import Iterator

START_OF_SCAN = 0xDA
END = b"\xff\xd9"

# Bytes that no end of a picture is.
FILLER = b"\x95\x2a" * 64


def end_of_picture(data: bytes) -> tuple[bytes, bool]:
    """Return a JPEG file up to the end marker of its first picture, and whether it has that marker.

    One that has none gets one; one without a scan is returned as it is.
    """
    scan = first_scan(data)
    if scan is None:
        return data, True
    # Coded data put 00 after FF (ITU-T T.81 B.1.1.5), so that they have no end marker in them.
    end = data.find(END, scan)
    return (data + END, False) if end < 0 else (data[: end + 2], True)


def first_scan(data: bytes) -> int | None:
    """Return where the data of the first scan begin, or None if the segments before it are damaged."""
    for marker, _, end in read_segments(data):
        if marker == START_OF_SCAN:
            return end
    return None


def read_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Return the marker of each segment from the first on, and where its contents begin and end (ITU-T T.81 B.1.1.4).

    It ends where something else than a marker follows. The last segment may be cut, and the reader has to stop at the
    first scan, whose data are not a segment.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD7:  # fill bytes, and markers without a length
            position += 1 if marker == 0xFF else 2
            continue
        end = position + 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
        yield marker, position + 4, end
        position = end


def with_filler(data: bytes) -> bytes:
    """Return a JPEG file with other bytes before its end marker: it decodes to the same picture if that is whole."""
    return data.removesuffix(END) + FILLER + END
