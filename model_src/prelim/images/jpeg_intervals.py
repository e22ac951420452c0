"""Whether a JPEG file of 12 bits, or without loss, has all of its data: by what libjpeg decodes from changed ones.

libjpeg continues at the next restart marker, or pads, where data are missing. It warns of that, but no library for
these kinds passes its warnings on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from prelim.images.jpeg_end import PROGRESSIVE_FRAME, START_OF_SCAN, end_of_scan, lacks_scans, read_all_segments

RESTART_INTERVAL, LOSSLESS_FRAME = 0xDD, 0xC3
# ITU-T T.81 table B.1, those that libjpeg decodes.
FRAMES = (0xC0, 0xC1, PROGRESSIVE_FRAME, LOSSLESS_FRAME)
# Fill bytes may precede a marker.
RESTART = re.compile(rb"\xff+([\xd0-\xd7])")
BLOCK = 8

# Bytes with which no interval ends, and their complement.
FILLERS = (b"\x95\x2a" * 32, b"\x6a\xd5" * 32)
# Data that are replaced to see whether they matter, and the shortest interval where that is tried.
TAIL = 16
SHORTEST = 2 * TAIL
# What encoders put after the data.
PADDING = b"\x00\xff"


@dataclass(frozen=True)
class Scan:
    """A scan of a JPEG file.

    frame      : second byte of the marker, and the segment, of the frame header
    components : names of those in the scan
    interval   : coded units between two restart markers; 0 without these
    start, end : of its data in the file
    """

    frame: bytes
    components: bytes
    interval: int
    start: int
    end: int

    @property
    def unit(self) -> int:
        """Rows and columns of a coded unit of one component."""
        return 1 if self.frame[0] == LOSSLESS_FRAME else BLOCK

    @property
    def units(self) -> int:
        """Number of minimum coded units (ITU-T T.81 A.2)."""
        frame, size = self.frame, self.unit
        rows, columns = int.from_bytes(frame[4:6], "big"), int.from_bytes(frame[6:8], "big")
        # Horizontal and vertical sampling factors.
        factors = {frame[i]: (frame[i + 1] >> 4, frame[i + 1] & 15) for i in range(9, len(frame) - 2, 3)}
        widest, tallest = (max(factor[axis] for factor in factors.values()) for axis in (0, 1))
        if len(self.components) > 1:
            return ceil_divide(columns, size * widest) * ceil_divide(rows, size * tallest)
        wide, tall = factors[self.components[0]]
        own_columns, own_rows = ceil_divide(columns * wide, widest), ceil_divide(rows * tall, tallest)
        return ceil_divide(own_columns, size) * ceil_divide(own_rows, size)


def ceil_divide(number: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-number // divisor)


def read_scans(data: bytes) -> Iterator[Scan]:
    """The scans of a JPEG file that can be decoded."""
    interval, frame = 0, b""
    for marker, start, end in read_all_segments(data):
        if marker in FRAMES:
            frame = data[start - 3 : end]
        elif marker == RESTART_INTERVAL:
            interval = int.from_bytes(data[start : start + 2], "big")
        elif marker == START_OF_SCAN:
            yield Scan(frame, data[start + 1 : end - 3 : 2], interval, end, end_of_scan(data, end))


def has_all_data(data: bytes, pixels: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> bool:
    """Whether a JPEG file has the data of all of its picture, and of one component no others.

    data   : DCT coded with 12 bits, or lossless; it ends with its end marker
    pixels : decoded from it by `decode`

    Damage that changes neither the number of coded units nor that of bytes goes unnoticed, as `is_whole` has it.
    """
    scans = list(read_scans(data))
    # In this order: only a file whose number of restarts is right is filled.
    if lacks_scans(data) or any(lacks_restarts(data, scan) for scan in scans):
        return False
    # An interval whose data are missing takes what follows for data.
    if not np.array_equal(pixels, decode(with_filler(data, scans, FILLERS[0]))):
        return False
    return not has_surplus(data, scans, pixels, decode)


def lacks_restarts(data: bytes, scan: Scan) -> bool:
    """Whether restart markers are missing or in the wrong order (ITU-T T.81 B.1.1.3, B.2.4.4).

    One more after the last interval is allowed, as some encoders write it.
    """
    if not scan.interval:
        return False
    expected = ceil_divide(scan.units, scan.interval) - 1
    found = [match[1][0] & 7 for match in RESTART.finditer(data, scan.start, scan.end)]
    return found != [i % 8 for i in range(len(found))] or len(found) not in (expected, expected + 1)


def has_surplus(data: bytes, scans: list[Scan], pixels: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> bool:
    """Whether an interval has data at its end that no part of the picture is from.

    Of one component in one scan; what else there is has no simple order.
    """
    if len(scans) != 1 or len(scans[0].components) != 1 or pixels.ndim != 2:
        return False
    scan = scans[0]
    # There may be a marker, with nothing, after the last interval.
    unchanged = np.array([len(interval.rstrip(PADDING)) >= SHORTEST for interval, _ in intervals(data, scan)])
    # What only makes black darker changes nothing; the complement makes it brighter.
    for filler in FILLERS:
        changed = changed_intervals(pixels, decode(with_filler(data, scans, filler, TAIL)), scan)
        unchanged = unchanged[: len(changed)] & ~changed[: len(unchanged)]
        if not unchanged.any():
            return False
    return True


def changed_intervals(pixels: np.ndarray, others: np.ndarray, scan: Scan) -> np.ndarray:
    """Whether each interval of the only component has pixels that differ."""
    rows, columns = (ceil_divide(side, scan.unit) for side in pixels.shape)
    differing = np.zeros((rows * scan.unit, columns * scan.unit), dtype=bool)
    differing[: pixels.shape[0], : pixels.shape[1]] = pixels != others
    units = differing.reshape(rows, scan.unit, columns, scan.unit).any(axis=(1, 3)).reshape(-1)
    return np.logical_or.reduceat(units, np.arange(0, len(units), scan.interval or len(units)))


def with_filler(data: bytes, scans: list[Scan], filler: bytes, dropped: int = 0) -> bytes:
    """A JPEG file with other bytes at the end of each interval, instead of the last ones of long intervals."""
    parts, position = [], 0
    for scan in scans:
        parts.append(data[position : scan.start])
        for interval, marker in intervals(data, scan):
            data_alone = interval.rstrip(PADDING) if dropped else b""
            # FF and the byte after it belong together.
            kept = data_alone[:-dropped].rstrip(b"\xff") if len(data_alone) >= SHORTEST else interval
            parts += [kept, filler, marker]
        position = scan.end
    return b"".join([*parts, data[position:]])


def intervals(data: bytes, scan: Scan) -> Iterator[tuple[bytes, bytes]]:
    """The data of each interval, and the marker after it, which is empty after the last."""
    position = scan.start
    for match in RESTART.finditer(data, scan.start, scan.end):
        yield data[position : match.start()], match[0]
        position = match.end()
    yield data[position : scan.end], b""
