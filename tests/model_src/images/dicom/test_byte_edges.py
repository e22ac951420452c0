"""Structures that end exactly where their file does, or one byte before it."""

import dataclasses
import struct

import pytest

from prelim.errors import UnreadableInput
from prelim.images.dicom.codestream import END, read_codestream
from prelim.images.dicom.rle import decode_rle
from prelim.images.dicom.structure import DELIMITER
from prelim.images.jpeg_end import lacks_scans, read_segments
from tests.model_src.images.dicom import test_codestream_headers as streams
from tests.model_src.images.dicom.test_codestream_headers import cod, jpeg, rle, segment, siz, tile_part
from tests.model_src.images.dicom.test_structure import (
    EXPLICIT,
    IMPLICIT,
    ITEM_END,
    PIXELS,
    ROWS,
    SEQUENCE_END,
    UNDEFINED,
    element,
    item,
    read,
)

COLUMNS = element(0x00280011, b"US", b"\x30\0")
NO_COLUMNS = element(0x00280011, b"US", b"")
SEQUENCE = 0x00091001
WITH_ITEM = item(NO_COLUMNS + ROWS + ITEM_END, UNDEFINED) + SEQUENCE_END


@pytest.mark.parametrize(
    "body",
    [
        element(0x00280010, b"US", b""),
        ROWS + NO_COLUMNS,
        ROWS + element(0x7FE00010, b"OW", b""),
        element(0x00280010, b"", b""),
        element(0x00283010, b"SQ", item(element(0x00280010, b"", b""))),
        element(0x00283010, b"SQ", item(b"")),
    ],
)
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_the_last_element_is_empty(body: bytes, syntax: str) -> None:
    """Its header is all that is left, in a data set of eight bytes too, whose first element tells of VRs."""
    found = read(body, syntax)
    assert found.body == body
    assert found.implicit == (body[4:6] == b"\0\0")


@pytest.mark.parametrize(
    ("body", "vr"),
    [
        (element(0x00280010, b"US", b""), b"US"),
        (ROWS + NO_COLUMNS, b"US"),
        (element(SEQUENCE, b"SQ", SEQUENCE_END, UNDEFINED), b"SQ"),
        (element(0x7FE00010, b"OB", item(b"") + SEQUENCE_END, UNDEFINED), b"OB"),
        (
            element(SEQUENCE, b"SQ", item(NO_COLUMNS + ROWS + ITEM_END, UNDEFINED) + SEQUENCE_END, UNDEFINED),
            b"\x10\0US",
        ),
    ],
)
def test_damaged_vrs_at_an_end(body: bytes, vr: bytes) -> None:
    """The data, an item or a sequence may end right after such an element, and its length may be undefined."""
    first = element(0x00080060, b"CS", b"CR")
    assert read(first + body.replace(vr, vr.lower(), 1)).body == first + body


@pytest.mark.parametrize(
    "following", [ROWS, element(0x00280011, b"Us", b"ab"), element(0x00280011, b"1a", b"ab"), element(8, b"US", b"ab")]
)
def test_what_follows_a_damaged_vr_has_a_higher_tag_and_a_vr(following: bytes) -> None:
    """The same tag or a lower one, and VRs of other letters, are none: then the VR is a part of the length."""
    with pytest.raises(UnreadableInput, match=r"\(0028,0010\) has a length of 160883 bytes"):
        read(element(0x00080060, b"CS", b"CR") + ROWS.replace(b"US", b"st") + following + PIXELS)


def test_a_level_ends_where_its_length_says() -> None:
    """Pixel Data right after it are of the top level, and the end of the data set."""
    for tables in (element(0x00283000, b"SQ", item(ROWS)), element(0x00283010, b"SQ", item(ROWS) + item(ROWS))):
        assert read(tables + PIXELS + ROWS).body == tables + PIXELS


@pytest.mark.parametrize(("end", "is_end"), [(b"\0" * 8 + b"ab", True), (b"\0" * 7 + b"\1", False)])
def test_eight_zeros_end_fragments(end: bytes, is_end: bool) -> None:
    """Seven and another byte are the header of something other than an item."""
    coded = ROWS + element(0x7FE00010, b"OB", item(b"data"), UNDEFINED)
    if is_end:
        assert read(coded + end).body == coded + DELIMITER
    else:
        with pytest.raises(UnreadableInput):
            read(coded + end)


@pytest.mark.parametrize(("before", "found"), [(4092, True), (4093, False)])
def test_where_a_codestream_begins_in_its_boxes(before: int, found: bool) -> None:
    """In the first 4096 bytes."""
    boxes = b"\0\0\0\x0cjP  ".ljust(before, b"\0")
    assert (read_codestream(boxes + siz() + tile_part() + END) is not None) is found


def test_headers_of_jpeg_that_end_the_file() -> None:
    """A scan without data, and a frame header of six bytes, which names no component."""
    whole = jpeg()
    cut = whole[: whole.index(b"data")]
    assert (streams.read(cut).complete, streams.read(cut).data) == (False, cut)
    bare = b"\xff\xd8" + segment(0xC0, b"\x08\0\x30\0\x28\0") + segment(0xDA, b"\0\0\x3f\0") + b"data" + END
    assert (streams.read(bare).rows, streams.read(bare).columns, streams.read(bare).components) == (48, 40, 0)


def test_segments_of_odd_fill() -> None:
    """One fill byte or three before a marker; a start of image in the middle is a segment like any other."""
    for fill in (b"\xff", b"\xff" * 3):
        assert [marker for marker, _, _ in read_segments(b"\xff\xd8" + fill + b"\xff\xe1\0\2")] == [0xE1]
    assert [marker for marker, _, _ in read_segments(b"\xff\xd8\xff\xd8\0\2\xff\xe1\0\2")] == [0xD8, 0xE1]


@pytest.mark.parametrize(
    ("head", "reversible"),
    [
        (siz() + cod(1), True),
        (siz() + cod(1)[:-1], False),
        (siz() + b"\xff\x64\0", False),
        (siz() + b"\xff\x64\0\0" + cod(1), True),
        (siz() + b"\xff\x64\0\1" + cod(1), True),
        (siz() + b"\xff\x64\0\2" + cod(1), True),
        (siz() + b"\xff\x64\0\3a" + cod(1), True),
    ],
)
def test_main_headers_of_jpeg_2000(head: bytes, reversible: bool) -> None:
    """Marker segments of any length, cut anywhere; those too short for their length count two bytes."""
    found = streams.read(head)
    assert (found.reversible, found.complete, found.data) == (reversible, False, head)


def test_depth_of_one_signed_bit() -> None:
    """ISO/IEC 15444-1 table A.11: the highest bit is the sign, the others the depth less one."""
    assert (streams.read(siz(depth=0x80)).precision, streams.read(siz(depth=0x80)).signed) == (1, True)
    assert (streams.read(siz(depth=0)).precision, streams.read(siz(depth=0)).signed) == (1, False)


@pytest.mark.parametrize(
    ("tiles", "after", "complete"),
    [
        (tile_part(), END + b"junk", True),
        (tile_part(length=0)[:12], END, True),
        (tile_part(length=13)[:13], b"", False),
        (tile_part(length=14)[:14], b"", True),
    ],
)
def test_ends_of_tile_parts(tiles: bytes, after: bytes, complete: bool) -> None:
    """What follows the end marker is cut off; a part that says 0 goes to the marker; 14 bytes are the shortest."""
    found = streams.read(siz() + tiles + after)
    assert found.complete is complete
    assert found.data == siz() + tiles + (END if complete else after)


@pytest.mark.parametrize(("sides", "tile"), [((40, 58), (40, 24)), ((50, 48), (20, 48))])
def test_tiles_begin_at_their_offset(sides: tuple[int, int], tile: tuple[int, int]) -> None:
    """Along both axes: with an offset of ten there are two."""
    offset = (sides[0] - 40, sides[1] - 48)
    head = siz(sides, offset, tile, offset)
    assert streams.read(head + tile_part(0) + tile_part(1)).complete
    assert not streams.read(head + tile_part(0)).complete


def test_rle_segments_without_bytes() -> None:
    """They lie within the data, and are too short."""
    for stream, bits in ((rle(b""), 8), (rle(b"", b"\1ab"), 16)):
        with pytest.raises(UnreadableInput, match="RLE segment of 0 bytes"):
            decode_rle(stream, 1, 2, 1, bits)


def scan(first: int, last: int, bits: int = 0, components: bytes = b"\1") -> bytes:
    """A scan of a progressive JPEG, with its data."""
    named = b"".join(bytes([name, 0]) for name in components)
    return segment(0xDA, bytes([len(components)]) + named + bytes([first, last, bits])) + b"data\xff\0\xff\xd0"


def progressive(*scans: bytes, components: bytes = b"\1", frame: int = 0xC2) -> bytes:
    """A progressive JPEG of these scans."""
    body = struct.pack(">BHHB", 8, 48, 40, len(components)) + b"".join(bytes([name, 0x11, 0]) for name in components)
    return b"\xff\xd8" + segment(frame, body) + b"".join(scans) + END


@pytest.mark.parametrize(
    ("stream", "lacks"),
    [
        (progressive(scan(0, 0), scan(1, 63)), False),
        (progressive(scan(0, 63)), False),
        (progressive(scan(0, 0), scan(1, 62)), True),
        (progressive(scan(0, 0), scan(2, 63)), True),
        (progressive(scan(1, 63)), True),
        (progressive(scan(0, 0), scan(1, 31), scan(32, 63)), False),
        # The low half of the last byte is the bit that a scan stops at, the high half where the one before did.
        (progressive(scan(0, 0), scan(1, 63, 0x01)), True),
        (progressive(scan(0, 0), scan(1, 63, 0x08)), True),
        (progressive(scan(0, 0), scan(1, 63, 0x10)), False),
        (progressive(scan(0, 0), scan(1, 63, 0x01), scan(1, 63, 0x10)), False),
        (progressive(scan(0, 0, components=b"\1\2"), scan(1, 63), scan(1, 63, 0, b"\2"), components=b"\1\2"), False),
        (progressive(scan(0, 0, components=b"\1\2"), scan(1, 63), components=b"\1\2"), True),
        (progressive(scan(0, 0, components=b"\2\1"), scan(1, 63, 0, b"\2\1"), components=b"\1\2"), False),
        # A scan's first coefficient is not the name of a component.
        (progressive(scan(0, 0, components=b"\1\5"), scan(1, 63, 0, b"\5"), components=b"\1\5"), True),
        (progressive(scan(0, 63), scan(0, 63, 0, b"\7")), False),
        (progressive(scan(0, 63, 0, b"\7")), True),
        (progressive(), True),
        (progressive(frame=0xC0), False),
        # A scan header that ends the file counts; one that is cut, or has no room for one component, does not.
        (progressive(segment(0xDA, b"\1\1\0\0\x3f\0")).removesuffix(END), False),
        (progressive(segment(0xDA, b"\1\1\0\0\x3f\0")).removesuffix(END)[:-1], True),
        (progressive(segment(0xDA, b"\1\0\0\x3f\0") + b"data"), True),
    ],
)
def test_scans_of_a_progressive_jpeg(stream: bytes, lacks: bool) -> None:
    """ITU-T T.81 G.1.1.1: every coefficient of every component, down to its last bit."""
    assert lacks_scans(stream) is lacks


def test_an_end_marker_may_stand_alone() -> None:
    """Headers do not depend on what follows the end."""
    found = streams.read(jpeg() + b"\0" * 9)
    assert found == dataclasses.replace(streams.read(jpeg()), data=jpeg())
