"""The intervals of a scan by hand: where they end, what replaces their ends, and in which of them pixels differ."""

import struct

import numpy as np
import pytest

from prelim.images.jpeg_intervals import (
    FILLERS,
    SHORTEST,
    TAIL,
    Scan,
    changed_intervals,
    has_surplus,
    intervals,
    lacks_restarts,
    read_scans,
    with_filler,
)
from tests.model_src.images.dicom.test_codestream_headers import segment

FRAME = struct.pack(">BHBHHB", 0xC1, 11, 12, 10, 20, 1) + b"\1\x11\0"
LOSSLESS = b"\xc3" + FRAME[1:]


def scan(data: bytes, interval: int = 1, frame: bytes = FRAME, components: bytes = b"\1") -> Scan:
    """The only scan of data that begin with four bytes of headers and end with two of a marker."""
    return Scan(frame, components, interval, 4, len(data) - 2)


def test_intervals_end_at_restarts() -> None:
    """Fill bytes belong to the marker, and the last interval has none."""
    data = b"headab\xff\xd0\xff\xffcd\xff\0\xff\xff\xd7\xff\xd9"
    assert list(intervals(data, scan(data))) == [
        (b"ab", b"\xff\xd0"),
        (b"\xff\xffcd\xff\0", b"\xff\xff\xd7"),
        (b"", b""),
    ]


@pytest.mark.parametrize(
    ("interval", "kept"),
    [
        (bytes(range(1, 33)), bytes(range(1, 17))),
        (bytes(range(1, 34)), bytes(range(1, 18))),
        (bytes(range(1, 32)), bytes(range(1, 32))),
        (bytes(range(1, 33)) + b"\0\xff\0", bytes(range(1, 17))),
        (bytes(range(1, 32)) + b"\0\0", bytes(range(1, 32)) + b"\0\0"),
        (bytes(range(1, 16)) + b"\xff" + bytes(range(17, 33)), bytes(range(1, 16))),
    ],
)
def test_ends_of_long_intervals_are_replaced(interval: bytes, kept: bytes) -> None:
    """Of 32 bytes and more without padding the last 16; FF and the byte after it stay together."""
    assert (TAIL, SHORTEST) == (16, 32)
    data = b"head" + interval + b"\xff\xd3" + interval + b"\xff\xd9tail"
    one = Scan(FRAME, b"\1", 1, 4, len(data) - 6)
    assert with_filler(data, [one], b"NEW", TAIL) == b"head" + kept + b"NEW\xff\xd3" + kept + b"NEW\xff\xd9tail"
    assert with_filler(data, [one], b"NEW") == b"head" + interval + b"NEW\xff\xd3" + interval + b"NEW\xff\xd9tail"
    assert FILLERS[0][0] ^ FILLERS[1][0] == FILLERS[0][1] ^ FILLERS[1][1] == 0xFF
    assert [len(filler) for filler in FILLERS] == [64, 64]


def test_scans_are_filled_one_after_the_other() -> None:
    """What is between them stays."""
    data = b"headabcMIDDLEdefEND"
    two = [Scan(FRAME, b"\1", 0, 4, 7), Scan(FRAME, b"\1", 0, 13, 16)]
    assert with_filler(data, two, b"+") == b"headabc+MIDDLEdef+END"


@pytest.mark.parametrize(
    ("frame", "interval", "place", "changed"),
    [
        # 10 x 20 pixels are 2 x 3 blocks.
        (FRAME, 2, (0, 0), [True, False, False]),
        (FRAME, 2, (7, 15), [True, False, False]),
        (FRAME, 2, (0, 16), [False, True, False]),
        (FRAME, 2, (8, 7), [False, True, False]),
        (FRAME, 2, (9, 19), [False, False, True]),
        (FRAME, 4, (8, 8), [False, True]),
        (FRAME, 0, (9, 19), [True]),
        (FRAME, 6, (9, 19), [True]),
        (LOSSLESS, 20, (3, 19), [False, False, False, True, False, False, False, False, False, False]),
        (LOSSLESS, 150, (7, 10), [False, True]),
        (LOSSLESS, 150, (7, 9), [True, False]),
    ],
)
def test_intervals_with_pixels_that_differ(
    frame: bytes, interval: int, place: tuple[int, int], changed: list[bool]
) -> None:
    """Units are counted along rows of blocks, of pixels where there is no loss."""
    pixels = np.zeros((10, 20), dtype=np.uint16)
    others = pixels.copy()
    others[place] = 1
    assert changed_intervals(pixels, others, Scan(frame, b"\1", interval, 0, 0)).tolist() == changed


@pytest.mark.parametrize(
    ("lengths", "brighter", "darker", "surplus"),
    [
        ((32, 32), [0, 1], [], False),
        ((32, 32), [0], [1], False),
        ((32, 32), [0], [0], True),
        ((32, 32), [], [1], True),
        ((31, 32), [1], [], False),
        ((31, 32), [], [], True),
        ((31, 31), [], [], False),
        ((32, 32, 0), [0, 1], [], False),
    ],
)
def test_data_that_no_part_of_a_picture_is_from(
    lengths: tuple[int, ...], brighter: list[int], darker: list[int], surplus: bool
) -> None:
    """An interval of 32 bytes whose end changes no pixel, whichever of two fillers replaces it."""
    data = b"head" + b"\xff\xd0".join(b"\x55" * length for length in lengths) + b"\xff\xd9"
    pixels = np.zeros((2, 20), dtype=np.uint16)
    one = Scan(LOSSLESS, b"\1", 20, 4, len(data) - 2)

    def decode(changed: bytes) -> np.ndarray:
        found = pixels.copy()
        found[brighter if FILLERS[0] in changed else darker] = 1
        return found

    assert has_surplus(data, [one], pixels, decode) is surplus
    assert not has_surplus(data, [one, one], pixels, decode)
    assert not has_surplus(data, [], pixels, decode)
    assert not has_surplus(data, [Scan(LOSSLESS, b"\1\2", 20, 4, len(data) - 2)], pixels, decode)
    assert not has_surplus(data, [one], pixels[..., None], decode)


def test_scans_have_the_interval_that_precedes_them() -> None:
    """Of DRI, which may come again; and the frame header before it, with its marker."""
    body = b"\x0c\0\x0a\0\x14\1\1\x11\0"
    first = segment(0xDD, b"\1\2") + segment(0xDA, b"\1\1\0\0\0\0")
    second = segment(0xDD, b"\0\0") + segment(0xDA, b"\2\1\0\7\0\0\0\0")
    data = b"\xff\xd8" + segment(0xC3, body) + first + b"one" + second + b"two\xff\xd9"
    one, two = read_scans(data)
    assert one == Scan(b"\xc3\0\x0b" + body, b"\1", 0x102, data.index(b"one"), data.index(b"one") + 3)
    assert two == Scan(b"\xc3\0\x0b" + body, b"\1\7", 0, data.index(b"two"), data.index(b"two") + 3)
    assert (one.unit, scan(data).unit) == (1, 8)
    assert not lacks_restarts(data, two)
    assert not lacks_restarts(data, one), "200 units are one interval of 258"
