"""The skeleton of a data set, byte by byte as PS3.5 section 7 and PS3.10 section 7 lay it out, at its limits."""

import struct
import zlib
from typing import Any

import pytest

from prelim.errors import TooLarge, UnreadableInput
from prelim.images.dicom import structure
from prelim.images.dicom.structure import DELIMITER, DataSet, looks_like_dicom, read_data_set

IMPLICIT, EXPLICIT, DEFLATED, BIG, GENERAL_ELECTRIC = (
    *(f"1.2.840.10008.1.2{rest}" for rest in ("", ".1", ".1.99", ".2")),
    "1.2.840.113619.5.2",
)
UNDEFINED = 0xFFFFFFFF
LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OD", b"OF", b"OL", b"OV", b"SV", b"UC", b"UR", b"UV")


def element(tag: int, vr: bytes, value: bytes, length: int | None = None, order: str = "<") -> bytes:
    """One element; without a VR, an implicit one or an item."""
    length = len(value) if length is None else length
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in LONG:
        return head + b"\0\0" + struct.pack(order + "L", length) + value
    return head + struct.pack(order + ("H" if vr else "L"), length) + value


def item(value: bytes, length: int | None = None, tag: int = 0xFFFEE000) -> bytes:
    """An item, or a delimiter."""
    return element(tag, b"", value, length)


ITEM_END, SEQUENCE_END = item(b"", tag=0xFFFEE00D), item(b"", tag=0xFFFEE0DD)
ROWS, PIXELS = element(0x00280010, b"US", b"\x30\0"), element(0x7FE00010, b"OW", b"pixels")


def file(body: bytes, syntax: str = EXPLICIT) -> bytes:
    """A file with the shortest meta information."""
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    return b"\0" * 128 + b"DICM" + element(0x00020010, b"UI", uid) + body


def read(body: bytes, syntax: str = EXPLICIT, max_bytes: int = 10**6) -> DataSet:
    """The data set of such a file."""
    return read_data_set(file(body, syntax), max_bytes)


@pytest.mark.parametrize("syntax", [EXPLICIT, GENERAL_ELECTRIC, "1.2.840.10008.1.2.4.50"])
def test_a_data_set_ends_with_its_pixels(syntax: str) -> None:
    """What follows Pixel Data is cut off, and nothing is put in its place."""
    found = read(ROWS + PIXELS + element(0xFFFCFFFC, b"OB", b"\0\0"), syntax)
    assert found == DataSet(syntax, implicit=False, little_endian=True, body=ROWS + PIXELS)
    assert found.little_endian_pixels == (syntax != GENERAL_ELECTRIC)


def test_encodings() -> None:
    """By the transfer syntax, and whether there are VRs by the first element."""
    implicit = element(0x00280010, b"", b"\x30\0") + element(0x7FE00010, b"", b"pixels")
    big = element(0x00280010, b"US", b"\0\x30", order=">") + element(0x7FE00010, b"OW", b"pixels", order=">")
    for body, syntax, expected in (
        (implicit, IMPLICIT, (True, True)),
        (implicit, EXPLICIT, (True, True)),
        (ROWS + PIXELS, IMPLICIT, (False, True)),
        (big, BIG, (False, False)),
        (b"", EXPLICIT, (False, True)),
        (b"", IMPLICIT, (True, True)),
    ):
        found = read(body, syntax)
        assert (found.implicit, found.little_endian, found.body) == (*expected, body)
        assert found.little_endian_pixels is expected[1]
    # Without meta information, and with one that names no transfer syntax or has no VR.
    bare = element(0x00080060, b"CS", b"CR") + ROWS
    for data in (
        bare,
        b"\0" * 128 + b"DICM" + bare,
        b"\0" * 128 + b"DICM" + element(0x00020001, b"OB", b"\0\1") + bare,
    ):
        assert read_data_set(data, 10**6) == DataSet(EXPLICIT, implicit=False, little_endian=True, body=bare)
    assert read_data_set(element(0x00080060, b"CS", b"CR", order=">"), 99).transfer_syntax == BIG
    assert read_data_set(element(0x00080060, b"", b"CR") + ROWS[:0], 99).transfer_syntax == IMPLICIT
    meta = element(0x00020000, b"", b"\0\0\0\0") + element(0x00020010, b"", IMPLICIT.encode() + b"\0")
    assert read_data_set(meta + implicit, 999).transfer_syntax == IMPLICIT
    assert looks_like_dicom(meta)
    assert not looks_like_dicom(meta[:12] + b"\3\0" + meta[14:])
    assert not looks_like_dicom(b"\2\0\0\0\5\0\0\0" + meta[8:])


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\0" * 128 + b"DICM", True),
        (b"\0" * 127 + b"DICM", False),
        (b"\x08\0\x05\0CS\x0a\0", True),
        (b"\x08\0\x05\0CS\x0a", False),
        (b"\x02\0\x05\0OB\0\0", True),
        (b"\0\x08\0\5CS\0\x0a", True),
        (b"\x08\0\x05\0cs\x0a\0", False),
        (b"\x09\0\x05\0CS\x0a\0", False),
        # Implicit: a low element of group 8, and a short even length within the data.
        (struct.pack("<HHL", 8, 0x70, 1024) + bytes(1025), True),
        (struct.pack("<HHL", 8, 0x71, 1024) + bytes(1025), False),
        (struct.pack("<HHL", 8, 0x70, 1026) + bytes(1027), False),
        (struct.pack("<HHL", 8, 0x70, 1024) + bytes(1024), False),
        (struct.pack("<HHL", 8, 5, 3) + bytes(99), False),
        (struct.pack("<HHL", 9, 5, 4) + bytes(99), False),
        (struct.pack("<HHL", 8, 5, 0) + b"x", True),
    ],
)
def test_what_looks_like_dicom(data: bytes, found: bool) -> None:
    """A preamble, or a first element that chance hardly makes."""
    assert looks_like_dicom(data) is found


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (ROWS + PIXELS[:-1], r"\(7FE0,0010\) has a length of 6 bytes; 5 remain"),
        (element(0x00280010, b"US", b"", 3) + b"ab", r"\(0028,0010\) has a length of 3 bytes; 2 remain"),
        (ROWS + PIXELS[:7], "ends inside of an element"),
        (ROWS + PIXELS[:11], "ends inside of an element"),
        (ROWS + b"\x28\0\x11\0", "ends inside of an element"),
        (element(0x7FE00010, b"OB", b"", UNDEFINED) + element(0x00280010, b"", b"ab"), "fragments that are not items"),
        (element(0x7FE00010, b"OB", b"", UNDEFINED) + item(b"", UNDEFINED), "fragments that are not items"),
        (
            element(0x7FE00010, b"OB", b"", UNDEFINED) + item(b"ab", 3),
            r"\(FFFE,E000\) has a length of 3 bytes; 2 remain",
        ),
    ],
)
def test_lengths_beyond_the_end(body: bytes, message: str) -> None:
    """The element, its length, and what is left."""
    with pytest.raises(UnreadableInput, match=message):
        read(body)


@pytest.mark.parametrize("vr", LONG)
def test_lengths_of_four_bytes(vr: bytes) -> None:
    """After two that are reserved (PS3.5 table 7.1-1)."""
    private = element(0x00091001, vr, b"\x28\0\x10\0US")
    if vr != b"SQ":
        assert read(private + PIXELS).body == private + PIXELS
    with pytest.raises(UnreadableInput, match=r"\(0009,1001\)"):
        read(element(0x00091001, vr, b"", 5) + b"abcd")


def test_fragments_and_their_delimiter() -> None:
    """A delimiter that is missing, or zeros in its place, is put there for pydicom; the rest is as it was."""
    coded = element(0x7FE00010, b"OB", b"", UNDEFINED) + item(b"") + item(b"data")
    assert read(ROWS + coded + SEQUENCE_END + ROWS).body == ROWS + coded + SEQUENCE_END
    for end in (b"", b"\0" * 5, b"\0" * 40):
        assert read(ROWS + coded + end).body == ROWS + coded + DELIMITER
    assert DELIMITER == SEQUENCE_END


def nested(depth: int) -> bytes:
    """Sequences and items in one another, all of undefined length, with an element in the innermost."""
    start = b"".join(
        item(b"", UNDEFINED) if i % 2 else element(0x00091001, b"SQ", b"", UNDEFINED) for i in range(depth)
    )
    end = b"".join(ITEM_END if i % 2 else SEQUENCE_END for i in reversed(range(depth)))
    return start + ROWS + end


def test_depth_and_number_of_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 levels, and 50,000 elements: the last that is allowed, and the first that is not."""
    assert (structure.MAX_DEPTH, structure.MAX_ELEMENTS) == (32, 50_000)
    assert read(nested(32) + PIXELS).body == nested(32) + PIXELS
    with pytest.raises(UnreadableInput, match="nests sequences more than 32 deep"):
        read(nested(33) + PIXELS)
    coded = element(0x7FE00010, b"OB", b"", UNDEFINED) + item(b"ab") * 3 + SEQUENCE_END
    monkeypatch.setattr(structure, "MAX_ELEMENTS", 4)
    assert read(ROWS * 3 + PIXELS).body == ROWS * 3 + PIXELS
    assert read(coded).body == coded
    for body in (ROWS * 4 + PIXELS, coded.replace(SEQUENCE_END, item(b"ab") + SEQUENCE_END)):
        with pytest.raises(TooLarge, match="more than 4 elements"):
            read(body)


def test_only_tables_are_looked_into() -> None:
    """Other sequences of defined length are passed over, whatever is in them; those that pydicom parses are walked."""
    damaged = item(element(0x00280010, b"US", b"\0\0", 9))
    assert read(element(0x00091001, b"SQ", damaged) + PIXELS).body.endswith(PIXELS)
    for tag in (0x00283000, 0x00283010):
        whole = element(tag, b"SQ", item(ROWS) + item(ROWS))
        assert read(whole + PIXELS).body == whole + PIXELS
        with pytest.raises(UnreadableInput, match=r"\(0028,0010\) has a length of 9 bytes"):
            read(element(tag, b"SQ", item(element(0x00280010, b"US", b"\0\0", 9))))
    # Pixel Data of an icon are not the end.
    icon = element(0x00880200, b"SQ", item(PIXELS + ITEM_END, UNDEFINED) + SEQUENCE_END, UNDEFINED)
    assert read(icon + PIXELS + ROWS).body == icon + PIXELS


def test_implicit_items_of_explicit_sequences() -> None:
    """Some writers leave the VR out inside of sequences; it is there again after these."""
    inner = element(0x00280010, b"", b"\x30\0")
    for body in (
        element(0x00091001, b"SQ", item(inner + ITEM_END, UNDEFINED) + SEQUENCE_END, UNDEFINED),
        element(0x00283010, b"SQ", item(inner)),
    ):
        assert read(body + ROWS + PIXELS).body == body + ROWS + PIXELS


@pytest.mark.parametrize(
    ("body", "repaired"),
    [
        (ROWS.replace(b"US", b"us"), ROWS),
        (ROWS.replace(b"US", b"\0\0"), ROWS.replace(b"US", b"ZZ")),
        (ROWS.replace(b"US", b"AZ"), ROWS.replace(b"US", b"AZ")),
        (ROWS.replace(b"US", b"A["), ROWS.replace(b"US", b"ZZ")),
        (ROWS.replace(b"US", b"@Z"), ROWS.replace(b"US", b"ZZ")),
        (element(0x00091001, b"OB", b"abcd").replace(b"OB", b"ob"), element(0x00091001, b"OB", b"abcd")),
        # An element without a VR stays one.
        (element(0x00280010, b"", b"\x30\0"), element(0x00280010, b"", b"\x30\0")),
    ],
)
@pytest.mark.parametrize("end", [b"", PIXELS])
def test_damaged_vrs_are_repaired(body: bytes, repaired: bytes, end: bytes) -> None:
    """In small letters, blank or none: what follows tells whether two bytes of length come after it."""
    first = element(0x00080060, b"CS", b"CR")
    assert read(first + body + end).body == first + repaired + end


@pytest.mark.parametrize("left", [1, 7])
def test_what_follows_a_damaged_vr_must_be_an_element(left: int) -> None:
    """Fewer bytes than the shortest has are none: then the VR is taken for a part of the length."""
    with pytest.raises(UnreadableInput, match=r"\(0028,0010\) has a length of 160883 bytes"):
        read(element(0x00080060, b"CS", b"CR") + ROWS.replace(b"US", b"st") + PIXELS[:left])


@pytest.mark.parametrize("cut", [0, 1])
def test_a_deflated_data_set_has_a_limit(cut: int) -> None:
    """As many bytes as allowed; one more, an early end, and what is not deflated are refused."""
    body = ROWS + PIXELS
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(body) + deflater.flush()
    assert read(deflated, DEFLATED, len(body)).body == body
    refusals: list[tuple[bytes, int, type[Exception], str]] = [
        (deflated, len(body) - 1, TooLarge, f"more than {len(body) - 1} bytes"),
        (deflated[: -1 - cut], 10**6, UnreadableInput, "ends early"),
        (b"\xff" * 50, 10**6, UnreadableInput, "cannot be inflated"),
    ]
    for data, limit, error, message in refusals:
        with pytest.raises(error, match=message):
            read(data, DEFLATED, limit)


def test_meta_information_of_any_length() -> None:
    """The transfer syntax is found among other elements, and padding is not part of it."""
    other: list[Any] = [element(0x00020001, b"OB", b"\0\1"), element(0x00020013, b"SH", b"x" * 16)]
    data = b"\0" * 128 + b"DICM" + other[0] + element(0x00020010, b"UI", EXPLICIT.encode() + b" ") + other[1]
    assert read_data_set(data + ROWS, 99) == DataSet(EXPLICIT, implicit=False, little_endian=True, body=ROWS)
