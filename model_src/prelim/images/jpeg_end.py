"""Where the picture of a JPEG file ends, and how to find out whether it is whole.

libjpeg pads a picture whose data are missing. It warns of that, which Pillow and imagecodecs do not pass on; simplejpeg
does, for samples of 8 bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import simplejpeg

INCOMPLETE = "the {kind} image lacks a part of its picture: it is truncated or damaged; send it again"

START_OF_SCAN = 0xDA
PROGRESSIVE_FRAME = 0xC2
END = b"\xff\xd9"

# libjpeg's warnings of missing and of surplus data.
DAMAGE = re.compile(r"Corrupt JPEG data|Premature end|Inconsistent progression")
SURPLUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")

# In coded data, 00 and the markers of restarts follow FF; fill bytes may precede a marker.
NEXT_SEGMENT = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
COEFFICIENTS = 64


def end_of_picture(data: bytes) -> tuple[bytes, bool]:
    """A JPEG file up to the end marker of its first picture, and whether it has that marker.

    One that has none gets one; one without a scan is returned as it is.
    """
    scan = first_scan(data)
    if scan is None:
        return data, True
    # Coded data put 00 after FF (ITU-T T.81 B.1.1.5), so that they have no end marker in them.
    end = data.find(END, scan)
    return (data + END, False) if end < 0 else (data[: end + 2], True)


def first_scan(data: bytes) -> int | None:
    """Where the data of the first scan begin, or None if the segments before it are damaged."""
    for marker, _, end in read_segments(data):
        if marker == START_OF_SCAN:
            return end
    return None


def read_segments(data: bytes, position: int = 2) -> Iterator[tuple[int, int, int]]:
    """The marker of each segment from `position` on, and where its contents begin and end (ITU-T T.81 B.1.1.4).

    It ends where something else than a marker follows. The last segment may be cut, and the reader has to stop at the
    first scan, whose data are not a segment.
    """
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD7:  # fill bytes, and markers without a length
            position += 1 if marker == 0xFF else 2
            continue
        end = position + 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
        yield marker, position + 4, end
        position = end


def is_whole(data: bytes) -> bool:
    """Whether a JPEG file has the data of all of its picture, and no others.

    data : DCT coded, sequential or progressive, of 8 bits; it ends with its end marker

    Padding before the end marker is ignored. Single wrong bits often go unnoticed: a JPEG file has no checksums.
    """
    try:
        # Scaled, it would allocate too little for a file that is not what the caller has made sure of.
        simplejpeg.decode_jpeg(data, "GRAY")
    except ValueError as error:
        surplus = SURPLUS.search(str(error))
        padding = surplus is not None and not data[-2 - int(surplus[1]) : -2].strip(b"\x00\xff")
        if DAMAGE.match(str(error)) and not padding:
            return False
    return not lacks_scans(data)


def lacks_scans(data: bytes) -> bool:
    """Whether a progressive JPEG file ends before its last bits (ITU-T T.81 G.1.1.1): it decodes to a blur."""
    missing: dict[int, set[int]] = {}
    for marker, start, end in read_all_segments(data):
        if marker == PROGRESSIVE_FRAME:
            # Precision, rows, columns, number of components, and three bytes for each, of which the first names it.
            missing = {component: set(range(COEFFICIENTS)) for component in data[start + 6 : end : 3]}
        elif marker == START_OF_SCAN and start + 6 <= end <= len(data) and not data[end - 1] & 15:
            # Number of components, two bytes for each, first and last coefficient, high and low bit.
            for component in data[start + 1 : end - 3 : 2]:
                missing.get(component, set()).difference_update(range(data[end - 3], data[end - 2] + 1))
    return any(missing.values())


def read_all_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments as `read_segments` does, and those after the data of each scan."""
    position: int | None = 2
    while position is not None:
        following = None
        for marker, start, end in read_segments(data, position):
            yield marker, start, end
            if marker == START_OF_SCAN:
                following = end_of_scan(data, end)
                break
        position = following


def end_of_scan(data: bytes, start: int) -> int:
    """Where the data of a scan end, which begin at `start`."""
    following = NEXT_SEGMENT.search(data, start)
    return following.start() if following else len(data)
