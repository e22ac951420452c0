"""Where the picture of a JPEG file ends, and how to find out whether it is whole.

libjpeg pads a picture whose data are missing and says nothing. Bytes between the end of the data and the end marker
change nothing in a whole picture; a truncated one is decoded from them and becomes another one.
"""

from __future__ import annotations

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
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD7:  # fill bytes, and markers without a length
            position += 1 if marker == 0xFF else 2
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == START_OF_SCAN:
            return position
    return None
