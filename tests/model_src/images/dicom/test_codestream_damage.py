"""JPEG codestreams of 12 bits, or without loss, that lack a part in their middle are refused."""

import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest

from prelim.errors import UnreadableInput
from prelim.images.jpeg_end import END, START_OF_SCAN, read_segments
from prelim.images.jpeg_intervals import Scan, lacks_restarts, read_scans
from prelim.images.radiograph import InputConfig, read_radiograph
from tests.dicom_files import encapsulate

COLUMNS, STRIPS = 128, 20
KINDS = {
    # Transfer syntax, rows of a strip, coded units of a strip, encoder.
    "extended": (
        "1.2.840.10008.1.2.4.51",
        8,
        COLUMNS // 8,
        lambda strip: imagecodecs.jpeg8_encode(strip, 95, bitspersample=12),
    ),
    "lossless": (
        "1.2.840.10008.1.2.4.70",
        4,
        COLUMNS * 4,
        lambda strip: imagecodecs.jpeg8_encode(strip, lossless=True, predictor=1, bitspersample=12),
    ),
}


def restart(number: int) -> bytes:
    """Return the marker after an interval, counted from 0."""
    return bytes([0xFF, 0xD0 + number % 8])


def split(kind: str) -> tuple[bytes, list[bytes]]:
    """Return the headers of a codestream of equal strips, and their intervals, each with the marker that follows it.

    The encoder writes no restarts: strips that are encoded alone have the same tables, as they are equal.
    """
    _, rows, units, encode = KINDS[kind]
    strip = np.random.default_rng(5).integers(500, 3500, (rows, COLUMNS)).astype(np.uint16)
    alone = encode(strip)
    frame, scan = (
        {marker: (start, end) for marker, start, end in _segments(alone)}[kind] for kind in (0xC0, START_OF_SCAN)
    )
    tall = alone[: frame[0] + 1] + struct.pack(">H", rows * STRIPS) + alone[frame[0] + 3 : scan[0] - 4]
    headers = tall + b"\xff\xdd\0\4" + struct.pack(">H", units) + alone[scan[0] - 4 : scan[1]]
    coded = alone[scan[1] :].removesuffix(END)
    return headers, [coded + restart(i) for i in range(STRIPS - 1)] + [coded + END]


def _segments(data: bytes) -> list[tuple[int, int, int]]:
    """Return the segments up to the first scan; every frame header as C0."""
    found = []
    for marker, start, end in read_segments(data):
        found.append((0xC0 if marker in (0xC1, 0xC3) else marker, start, end))
        if marker == START_OF_SCAN:
            break
    return found


def read(kind: str, stream: bytes) -> np.ndarray:
    """Return the pixels of a DICOM file with this codestream."""
    syntax, rows, _, _ = KINDS[kind]
    return read_radiograph(encapsulate(stream, syntax, (rows * STRIPS, COLUMNS)), InputConfig()).pixels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", [END, b"\xff\xff" + END, restart(STRIPS - 1) + END, b""])
def test_intervals_that_are_whole(kind: str, end: bytes) -> None:
    """All strips are shown, also with fill bytes or one more restart before the end marker, or without the latter."""
    headers, intervals = split(kind)

    pixels = read(kind, headers + b"".join(intervals).removesuffix(END) + end)

    strips = pixels.reshape(STRIPS, -1, COLUMNS)
    assert np.ptp(strips) > 0.5
    assert (strips == strips[0]).all()


def without(*numbers: int) -> Callable[[list[bytes]], list[bytes]]:
    """Drop intervals, with their markers."""
    return lambda intervals: [interval for i, interval in enumerate(intervals) if i not in numbers]


def remove_bytes(number: int, count: int, start: int | None = None) -> Callable[[list[bytes]], list[bytes]]:
    """Drop bytes of one interval, at its end before the marker or from `start` on."""

    def change(intervals: list[bytes]) -> list[bytes]:
        coded, marker = intervals[number][:-2], intervals[number][-2:]
        first = len(coded) - count if start is None else start
        return [*intervals[:number], coded[:first] + coded[first + count :] + marker, *intervals[number + 1 :]]

    return change


DAMAGES = {
    "first cut at its end": remove_bytes(0, 20),
    "one cut at its end": remove_bytes(7, 20),
    "last cut at its end": remove_bytes(STRIPS - 1, 20),
    "packet in an interval": remove_bytes(7, 60, start=10),
    "one emptied": remove_bytes(11, 10_000, start=0),
    "first lost": without(0),
    "one lost": without(7),
    "last lost": lambda intervals: [*intervals[:-2], intervals[-2][:-2] + END],
    # The markers that are left follow one another.
    "eight lost": without(*range(5, 13)),
    "packet over a marker": lambda intervals: [*intervals[:4], intervals[4][:-30] + intervals[5][20:], *intervals[6:]],
    "marker lost": lambda intervals: [*intervals[:4], intervals[4][:-2], *intervals[5:]],
    "two exchanged": lambda intervals: [*intervals[:4], intervals[5], intervals[4], *intervals[6:]],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_between_restarts_is_found(kind: str, damage: str) -> None:
    """Libjpeg continues at the next restart marker, with a picture that is wrong before it or from there on."""
    headers, intervals = split(kind)

    with pytest.raises(UnreadableInput, match="lacks a part of its picture"):
        read(kind, headers + b"".join(DAMAGES[damage](intervals)))


@pytest.mark.parametrize("level", [20, 60, 95])
@pytest.mark.parametrize("tone", [0, 2000, 4095])
@pytest.mark.parametrize("noise", [0, 1, 300])
def test_even_areas_are_whole(level: int, tone: int, noise: int) -> None:
    """Black and white at the end of a picture, where most changes of the data are clipped away."""
    rng = np.random.default_rng(7)
    pixels = np.vstack([rng.normal(2000, 500, (64, 96)), rng.normal(tone, noise, (64, 96))])
    stream = imagecodecs.jpeg8_encode(pixels.clip(0, 4095).astype(np.uint16), level, bitspersample=12)

    found = read_radiograph(encapsulate(stream, KINDS["extended"][0], pixels.shape), InputConfig()).pixels

    assert np.abs(found[64:].mean() - tone / 4095) < 0.1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_packet_lost_without_restarts_is_found(kind: str, share: float) -> None:
    """What follows the lost bytes is taken for something else, and does not suffice."""
    syntax, _, _, encode = KINDS[kind]
    pixels = np.random.default_rng(6).integers(500, 3500, (64, 64)).astype(np.uint16)
    whole = encode(pixels)
    start = int(len(whole) * share)

    with pytest.raises(UnreadableInput, match="lacks a part of its picture"):
        read_radiograph(encapsulate(whole[:start] + whole[start + 300 :], syntax, (64, 64)), InputConfig())


@pytest.mark.parametrize(
    ("marker", "factors", "scan", "units"),
    [
        # 50 x 30 pixels: ITU-T T.81 A.2.2 and A.2.3.
        (0xC1, {1: 0x11}, [1], 7 * 4),
        (0xC3, {1: 0x11}, [1], 50 * 30),
        # A factor of the only component changes nothing.
        (0xC1, {1: 0x22}, [1], 7 * 4),
        (0xC1, {1: 0x11, 2: 0x11, 3: 0x11}, [1, 2, 3], 7 * 4),
        (0xC1, {1: 0x22, 2: 0x11, 3: 0x11}, [1, 2, 3], 4 * 2),
        (0xC1, {1: 0x21, 2: 0x11, 3: 0x11}, [1, 2, 3], 4 * 4),
        (0xC1, {1: 0x22, 2: 0x11, 3: 0x11}, [1], 7 * 4),
        (0xC1, {1: 0x22, 2: 0x11, 3: 0x11}, [2], 4 * 2),
        (0xC1, {1: 0x12, 2: 0x11, 3: 0x11}, [3], 7 * 2),
    ],
)
def test_units_of_a_scan(marker: int, factors: dict[int, int], scan: list[int], units: int) -> None:
    """Blocks of a component alone, or of all components of a scan together."""
    header = struct.pack(">BHBHHB", marker, 8 + 3 * len(factors), 12, 30, 50, len(factors))
    frame = header + b"".join(bytes([name, factor, 0]) for name, factor in factors.items())

    assert Scan(frame, bytes(scan), 0, 0, 0).units == units


@pytest.mark.parametrize(("count", "lacks"), [(17, True), (18, True), (19, False), (20, False), (21, True)])
def test_number_of_restarts(count: int, lacks: bool) -> None:
    """20 intervals have a marker between each two, and may have one after the last."""
    headers, intervals = split("extended")
    coded = intervals[0][:-2]

    data = headers + b"".join(coded + restart(i) for i in range(count)) + END

    assert [lacks_restarts(data, scan) for scan in read_scans(data)] == [lacks]
