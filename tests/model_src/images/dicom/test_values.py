"""One value of a header at a time: bytes in, a code, a number or a table out; PS3.5 6.2 has the formats."""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from prelim.images.dicom import values
from prelim.images.dicom.tags import OVERLAY_ROWS
from prelim.images.dicom.values import Concept, Invalid, RawValue


def header(keyword: str, vr: str, data: bytes, *, little: bool = True, implicit: bool = False) -> Dataset:
    """A data set with these bytes in one element."""
    made, tag = Dataset(), Tag(keyword)
    made[tag] = RawDataElement(tag, vr, len(data), data, 0, implicit, little)
    return made


def words(*numbers: int, kind: str = "H", order: str = "<") -> bytes:
    """Numbers as bytes."""
    return struct.pack(f"{order}{len(numbers)}{kind}", *numbers)


@pytest.mark.parametrize(
    ("reader", "keyword", "vr", "data", "expected"),
    [
        # Text: padding goes, empty values go at the end alone.
        ("texts", "Modality", "CS", b" CR \0", ["CR"]),
        ("texts", "Modality", "CS", b"A\\\\B\\ \\", ["A", "", "B"]),
        ("texts", "Modality", "CS", b" \\ ", None),
        ("texts", "PatientName", "PN", "Müller".encode("latin-1"), ["Müller"]),
        ("texts", "PatientName", "PN", "Müller".encode(), ["Müller"]),
        ("texts", "Modality", "US", words(1), Invalid("is not text")),
        ("code", "Modality", "CS", b"cr\\DX", "CR"),
        ("code", "Modality", "CS", b"A_ 9" * 4, "A_ 9" * 4),
        ("code", "Modality", "CS", b"A" * 17, Invalid("is not a code")),
        ("code", "Modality", "CS", b"DOE^JOHN", Invalid("is not a code")),
        ("words", "BodyPartExamined", "CS", b"Thorax p.a./lat", ("THORAX", "PA", "LAT")),
        ("words", "BodyPartExamined", "CS", b"a" * 32 + b"\\" + b"b" * 32, ("A" * 32, "B" * 32)),
        ("words", "BodyPartExamined", "CS", b"a" * 32 + b"\\" + b"b" * 33, Invalid("is too long for a code")),
        ("uid", "SOPClassUID", "UI", b"1.2" + b"." * 61, "1.2" + "." * 61),
        ("uid", "SOPClassUID", "UI", b"1.2" + b"." * 62, Invalid("is not a UID")),
        ("uid", "SOPClassUID", "UI", b"1.2a", Invalid("is not a UID")),
        # Whole numbers, of binary tags and of text.
        ("whole", "Rows", "US", words(48), 48),
        ("whole", "Rows", "US", words(48, 48, 48), 48),
        ("whole", "Rows", "US", words(48, 49), Invalid("is not one whole number")),
        ("whole", "Rows", "US", b"\1", Invalid("is not a number")),
        ("whole", "PixelPaddingValue", "SS", words(0x8000), -32768),
        ("whole", "Rows", "UL", words(70_000, kind="L"), 70_000),
        ("whole", "Rows", "SL", words(0xFFFFFFFF, kind="L"), -1),
        ("whole", "Rows", "FL", struct.pack("<f", 48), Invalid("is not one whole number")),
        ("whole", "Rows", "OB", b"\1\0", Invalid("is not a number")),
        ("whole", "NumberOfFrames", "IS", b"+12.00", 12),
        ("whole", "NumberOfFrames", "IS", b"-3\\-3 ", -3),
        ("whole", "NumberOfFrames", "IS", b"3\\4", Invalid("is not one whole number")),
        ("whole", "NumberOfFrames", "IS", b"1.5", Invalid("is not one whole number")),
        ("whole", "NumberOfFrames", "IS", b"1_0", Invalid("is not one whole number")),
        ("whole", "NumberOfFrames", "IS", b"9" * 12, 10**12 - 1),
        ("whole", "NumberOfFrames", "IS", b"9" * 13, Invalid("is not one whole number")),
        ("whole", "NumberOfFrames", "IS", b"  ", None),
        # Decimals: up to the first value that is invalid.
        ("decimals", "WindowCenter", "DS", b"1.5\\-2e1\\x\\3", (1.5, -20)),
        ("decimals", "WindowCenter", "DS", b".5\\5.\\+1E+2\\1e-2", (0.5, 5, 100, 0.01)),
        ("decimals", "WindowCenter", "DS", b"nan\\1", Invalid("is not a finite number")),
        ("decimals", "WindowCenter", "DS", b"1e999", Invalid("is not a finite number")),
        ("decimals", "WindowCenter", "DS", b"1e0009", Invalid("is not a finite number")),
        ("decimals", "WindowCenter", "DS", b"1" * 40 + b"." + b"1" * 40, (float("1" * 40),)),
        ("decimals", "WindowCenter", "DS", b"1" * 81, Invalid("is not a finite number")),
        ("decimals", "WindowCenter", "DS", b"1." + b"1" * 41, Invalid("is not a finite number")),
        ("decimals", "WindowCenter", "DS", b" ", None),
        ("decimals", "WindowCenter", "FD", struct.pack("<3d", 1, np.inf, 2), (1,)),
        ("decimals", "WindowCenter", "FL", struct.pack("<f", 0.25), (0.25,)),
    ],
)
def test_values_of_one_tag(reader: str, keyword: str, vr: str, data: bytes, expected: Any) -> None:
    """What is read, nothing for an empty one, and why one cannot be read."""
    read: Callable[[Dataset, str], Any] = getattr(values, f"read_{reader}")
    if isinstance(expected, Invalid):
        with pytest.raises(Invalid) as raised:
            read(header(keyword, vr, data), keyword)
        assert str(raised.value) == str(expected)
    else:
        assert read(header(keyword, vr, data), keyword) == expected
    for empty in (header(keyword, vr, b""), Dataset()):
        assert read(empty, keyword) is None


def test_numbers_are_read_in_their_order_of_bytes() -> None:
    """Little and big endian, also of two and four bytes."""
    assert values.read_numbers(header("Rows", "US", b"\1\2\3\4"), "Rows").tolist() == [0x0201, 0x0403]  # type: ignore[union-attr]
    big = header("Rows", "US", b"\1\2\3\4", little=False)
    assert values.read_numbers(big, "Rows").tolist() == [0x0102, 0x0304]  # type: ignore[union-attr]
    assert values.read_whole(header("Rows", "UL", b"\1\2\3\4", little=False), "Rows") == 0x01020304


@pytest.mark.parametrize("vr", ["UN", "ZZ", "None"])
def test_a_vr_that_says_nothing_is_that_of_the_dictionary(vr: str) -> None:
    """As in implicit data sets."""
    assert values.read_raw(header("Rows", vr, b"\1\0"), "Rows") == RawValue("US", b"\1\0", True)
    assert values.read_raw(header("LUTData", "OW", b"\1\0", little=False), "LUTData") == RawValue("OW", b"\1\0", False)


def test_sequences_where_a_value_is_wanted() -> None:
    """Pydicom has converted them; an empty one is as absent."""
    made = Dataset()
    made.add_new(tag_for_keyword("Rows"), "SQ", Sequence([Dataset()]))
    with pytest.raises(Invalid, match="is a sequence"):
        values.read_raw(made, "Rows")
    made.add_new(tag_for_keyword("Columns"), "SQ", Sequence())
    assert values.read_raw(made, "Columns") is None
    assert values.read_presence(made, "Columns") is True
    assert values.read_presence(made, "PixelData") is None
    with pytest.raises(KeyError, match="NoSuchTag"):
        values.tag_of("NoSuchTag")
    assert values.describe_tag("PixelData") == "(7FE0,0010) Pixel Data"
    assert values.describe_tag("PhotometricInterpretation") == "(0028,0004) Photometric Interpretation"


@pytest.mark.parametrize(("uid", "name"), [("", "absent"), ("1.2.3", "not in the standard")])
def test_other_uids_are_not_repeated(uid: str, name: str) -> None:
    """Those of the standard have their name and number."""
    assert values.standard_name(uid) == name
    assert values.standard_name("1.2.840.10008.1.2") == "'Implicit VR Little Endian' (1.2.840.10008.1.2)"


def table(descriptor: tuple[int, ...], data: bytes, vr: str = "OW", *, little: bool = True) -> Dataset:
    """An item of a LUT sequence."""
    made = header("LUTDescriptor", "US", words(*descriptor, order="<" if little else ">"), little=little)
    made.update(header("LUTData", vr, data, little=little))
    return made


@pytest.mark.parametrize(
    ("item", "first", "entries", "bits"),
    [
        (table((3, 7, 12), words(1, 2, 3)), 7, [1, 2, 3], 12),
        (table((3, 7, 12), words(1, 2, 3, order=">"), little=False), 7, [1, 2, 3], 12),
        # More entries than declared, and an odd byte, are left alone.
        (table((2, 0, 16), words(1, 2, 3) + b"\1"), 0, [1, 2], 16),
        (table((2, 0, 1), words(1, 0)), 0, [1, 0], 1),
        # Entries of 8 bits: in a word each, two in a word, or bytes.
        (table((3, 0, 8), words(1, 2, 3)), 0, [1, 2, 3], 8),
        (table((4, 0, 8), b"\1\2\3\4"), 0, [1, 2, 3, 4], 8),
        (table((4, 0, 8), b"\2\1\4\3", little=False), 0, [1, 2, 3, 4], 8),
        (table((3, 0, 8), b"\1\2\3", "OB"), 0, [1, 2, 3], 8),
        (table((4, 0, 8), b"\1\2\3\4", "OB", little=False), 0, [1, 2, 3, 4], 8),
    ],
)
def test_tables_of_one_item(item: Dataset, first: int, entries: list[int], bits: int) -> None:
    """PS3.3 C.11.1.1.1."""
    found = values.read_entries(item, "LUTDescriptor", "LUTData")
    assert (found.first, found.entries.tolist(), found.bits) == (first, entries, bits)


def test_a_length_of_zero_is_65536() -> None:
    """So many entries do not fit into 16 bits; one fewer is too short."""
    data = np.arange(2**16, dtype="<u2").tobytes()
    assert len(values.read_entries(table((0, 0, 16), data), "LUTDescriptor", "LUTData").entries) == 2**16
    for short in (
        table((0, 0, 16), data[:-2]),
        table((3, 0, 16), words(1, 2)),
        table((2, 0, 9), b"\1\2"),
        table((3, 0, 8), b"\1\2"),
    ):
        with pytest.raises(Invalid, match="has a table shorter than its descriptor"):
            values.read_entries(short, "LUTDescriptor", "LUTData")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (table((3, 0), words(1, 2, 3)), "has no table"),
        (table((3, 0, 8, 8), words(1, 2, 3)), "has no table"),
        (table((3, 0, 8), b""), "has no table"),
        (header("LUTData", "OW", words(1)), "has no table"),
        (table((3, 0, 0), words(1, 2, 3)), "has entries of 0 bits"),
        (table((3, 0, 17), words(1, 2, 3)), "has entries of 17 bits"),
    ],
)
def test_tables_that_cannot_be_used(item: Dataset, message: str) -> None:
    """With the reason."""
    with pytest.raises(Invalid) as raised:
        values.read_entries(item, "LUTDescriptor", "LUTData")
    assert str(raised.value) == message


def concept(**texts: str) -> Dataset:
    """An item of a code sequence."""
    made = Dataset()
    for keyword, text in texts.items():
        vr = {"CodeMeaning": "LO", "LongCodeValue": "UC"}.get(keyword, "SH")
        made.update(header(keyword, vr, text.encode()))
    return made


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (concept(CodeValue="t-d3000", CodingSchemeDesignator="srt"), Concept("T-D3000", ())),
        (concept(CodeValue="51185008", CodingSchemeDesignator="2.16.840.1.113883.6.96"), Concept("51185008", ())),
        (concept(CodeValue="51185008", CodingSchemeDesignator="2.16.840.1.113883.6.5"), Concept("51185008", ())),
        (concept(CodeValue="51185008", CodingSchemeDesignator="SNOMED3"), Concept("51185008", ())),
        (concept(CodeValue="51185008"), Concept("51185008", ())),
        (concept(LongCodeValue="9" * 18), Concept("9" * 18, ())),
        (concept(LongCodeValue="9" * 19), None),
        (concept(CodeValue="51185008", CodingSchemeDesignator="LOCAL"), None),
        (
            concept(CodeValue="1", CodingSchemeDesignator="LOCAL", CodeMeaning="Hand, a.p."),
            Concept(None, ("HAND", "AP")),
        ),
        (concept(CodeMeaning="x" * 70), Concept(None, ("X" * 64,))),
        (concept(), None),
    ],
)
def test_concepts(item: Dataset, expected: Concept | None) -> None:
    """Codes count where they are SNOMED's, and the words of what they mean always."""
    assert values.read_concept(item) == expected
    made = Dataset()
    made.ViewCodeSequence = Sequence([Dataset(), item])
    if expected is None:
        with pytest.raises(Invalid, match="has no code"):
            values.read_coded_concepts(made, "ViewCodeSequence")
    else:
        assert values.read_coded_concepts(made, "ViewCodeSequence") == (expected,)


def test_items_of_sequences() -> None:
    """Absent and empty sequences have none; other bytes are invalid."""
    made = Dataset()
    assert values.read_items(made, "ViewCodeSequence") is None
    made.ViewCodeSequence = Sequence()
    assert values.read_items(made, "ViewCodeSequence") is None
    assert values.read_table(made, "VOILUTSequence") is None
    for vr, nothing in (("UN", b""), ("LO", None)):
        empty = Dataset()
        empty["ViewCodeSequence"] = DataElement(tag_for_keyword("ViewCodeSequence") or 0, vr, nothing)
        assert values.read_items(empty, "ViewCodeSequence") is None
    made.ViewCodeSequence = Sequence([concept(CodeValue="1"), concept(CodeValue="2")])
    assert len(values.read_items(made, "ViewCodeSequence") or ()) == 2
    for vr, data in (("SQ", b"\1\2\3\4"), ("UN", b"\1\2\3\4"), ("LO", b"text")):
        with pytest.raises(Invalid, match="is not a"):
            values.read_items(header("ViewCodeSequence", vr, data), "ViewCodeSequence")


def test_overlays_have_sixteen_groups() -> None:
    """PS3.3 C.9.2: (6000,0010) to (601E,0010), even groups."""
    assert list(OVERLAY_ROWS) == list(range(0x60000010, 0x60200010, 0x20000))
