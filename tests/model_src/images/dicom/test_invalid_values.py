"""Tags of a header that are invalid: which of them matter is said by the table in prelim.images.dicom.tags."""

import dataclasses

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian

from prelim.errors import UnreadableInput
from prelim.images.dicom.tags import TAGS, HeaderValues, Use
from prelim.images.dicom.values import describe_tag
from prelim.images.radiograph import InputConfig, Radiograph, read_radiograph
from tests.dicom_files import dataset, encode, lut_item, make_dicom, phantom, set_text

WINDOW = {"WindowCenter", "WindowWidth"}
# What no text or number can be wrong in: sequences, and what is only looked for.
NOT_TEXT = {"PixelData", "FloatPixelData", "DoubleFloatPixelData"}
OPTIONAL = [tag.keyword for tag in TAGS.values() if tag.use is Use.OPTIONAL]
TEXT_TAGS = [keyword for keyword in OPTIONAL if not keyword.endswith("Sequence")]


def read(data: bytes, **options: object) -> Radiograph:
    """Read with the default configuration, or with these options."""
    return read_radiograph(data, InputConfig(**options))


def invalid(radiograph: Radiograph) -> list[str]:
    """Return what is said of tags that are invalid."""
    return [warning for warning in radiograph.warnings if warning.startswith("invalid_value: ")]


@pytest.mark.parametrize("keyword", OPTIONAL)
def test_an_optional_tag_that_is_garbage_is_as_absent(keyword: str) -> None:
    """Garbage gives the picture of the file without the tag, and a warning that names it."""
    made = dataset(phantom())
    garbage = set_text(dataset(phantom()), **{keyword: "?" * 99})
    if keyword in made:
        del made[keyword]
    radiograph = read(encode(garbage))
    assert np.array_equal(radiograph.pixels, read(encode(made)).pixels)
    assert [describe_tag(keyword) in warning for warning in invalid(radiograph)] == [True]


@pytest.mark.parametrize("keyword", [tag.keyword for tag in TAGS.values() if tag.use is not Use.OPTIONAL])
def test_other_tags_that_are_garbage_are_damage(keyword: str) -> None:
    """A tag that is needed or decisive is a 400 that names it, unless its presence alone is asked for."""
    if keyword in NOT_TEXT:
        assert TAGS["pixel_data"].use is Use.NEEDED
        return
    if keyword == "BitsAllocated":
        # pydicom needs it to write the pixels.
        data = make_dicom().replace(b"\x28\0\0\x01US\2\0\x10\0", b"\x28\0\0\x01CS\2\0??")
    else:
        data = encode(set_text(dataset(phantom()), **{keyword: "???"}))
    with pytest.raises(UnreadableInput) as caught:
        read(data)
    assert describe_tag(keyword) in str(caught.value)


@pytest.mark.parametrize("name", [name for name, tag in TAGS.items() if tag.use is Use.NEEDED])
def test_a_needed_tag_that_is_absent_is_damage(name: str) -> None:
    """Without a needed tag there is no picture: a 400 that names it."""
    with pytest.raises(UnreadableInput) as caught:
        read(make_dicom(drop=(TAGS[name].keyword,)))
    assert describe_tag(TAGS[name].keyword) in str(caught.value)


def test_every_tag_is_in_the_table() -> None:
    """Every field of the values but the two that are computed comes from one tag, and no tag has two."""
    assert {field.name for field in dataclasses.fields(HeaderValues)} - {"overlays", "warnings"} == set(TAGS)
    assert len({tag.keyword for tag in TAGS.values()}) == len(TAGS)


@pytest.mark.parametrize("text", ["4096,0", "NaN", "AUTO", "1_000", "inf", "1e999", "4096 HU", "0x1000"])
@pytest.mark.parametrize("keyword", sorted(WINDOW))
def test_a_window_that_is_no_number_is_no_window(keyword: str, text: str) -> None:
    """Decimal commas, NaN, words and what only Python takes for a number: percentiles, and the tag is named."""
    radiograph = read(encode(set_text(dataset(phantom()), **{keyword: text})))
    assert np.array_equal(radiograph.pixels, read(make_dicom(drop=(keyword,))).pixels)
    assert [describe_tag(keyword) in warning for warning in invalid(radiograph)] == [True]


@pytest.mark.parametrize("text", ["2048\\", "2048\\\\", " 2048 \\AUTO", "+2048.", "2.048E3", "2048\0"])
def test_a_window_whose_first_number_can_be_read_is_used(text: str) -> None:
    """A trailing backslash is a second value that is empty; the first window is what is shown anyway."""
    radiograph = read(encode(set_text(dataset(phantom()), WindowCenter=text)))
    assert np.array_equal(radiograph.pixels, read(make_dicom()).pixels)
    assert radiograph.warnings == ()


@pytest.mark.parametrize("text", ["0", "0.0", "-0", "NaN", "1,0", "x"])
def test_a_slope_that_cannot_be_is_one(text: str) -> None:
    """A slope of 0 would make the picture flat: it is shown with 1."""
    radiograph = read(encode(set_text(dataset(phantom()), RescaleSlope=text, RescaleIntercept="0")))
    assert np.array_equal(radiograph.pixels, read(make_dicom()).pixels)
    assert [describe_tag("RescaleSlope") in warning for warning in invalid(radiograph)] == [True]


def broken_tables() -> dict[str, Dataset]:
    """Return items of a LUT sequence that hold no table."""
    whole = lut_item(0, np.arange(4096), 12)
    short, no_descriptor, no_data, no_bits, two = (Dataset() for _ in range(5))
    for item in (short, no_data, no_bits, two):
        item.LUTDescriptor = whole.LUTDescriptor
    short.add_new(0x00283006, "OW", whole.LUTData[:8000])
    no_descriptor.add_new(0x00283006, "OW", whole.LUTData)
    no_bits.LUTDescriptor, no_bits.LUTData = [4096, 0, 0], whole.LUTData
    two.LUTDescriptor, two.LUTData = [4096, 0], whole.LUTData
    return {
        "empty item": Dataset(),
        "short": short,
        "no descriptor": no_descriptor,
        "no entries": no_data,
        "no bits": no_bits,
        "descriptor of two": two,
    }


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("name", broken_tables())
def test_a_table_that_contradicts_itself_is_no_table(keyword: str, name: str) -> None:
    """The window, or slope and intercept, apply as if there were no table."""
    radiograph = read(make_dicom(**{keyword: Sequence([broken_tables()[name]])}))
    assert np.array_equal(radiograph.pixels, read(make_dicom()).pixels)
    assert [describe_tag(keyword) in warning for warning in invalid(radiograph)] == [True]


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"])
@pytest.mark.parametrize("text", ["0.2", "0.2\\x", "0\\0", "-1\\-1", "?\\0.2", "0,2\\0,2"])
def test_a_spacing_that_is_unreadable_is_no_spacing(keyword: str, text: str) -> None:
    """The size of a pixel has no part in the picture."""
    radiograph = read(encode(set_text(dataset(phantom()), **{keyword: text})))
    assert radiograph.spacing is None
    assert [describe_tag(keyword) in warning for warning in invalid(radiograph)] == [True]


@pytest.mark.parametrize(
    "header",
    [
        {"VOILUTFunction": "CUBIC"},
        {"PresentationLUTShape": "ROUND"},
        {"NumberOfFrames": 0},
        {"PixelPaddingRangeLimit": "many", "PixelPaddingValue": "all"},
    ],
)
def test_a_code_without_meaning_is_as_absent(header: dict) -> None:
    """A value of the right kind that means nothing does not lead to a refusal, and is named."""
    made = set_text(dataset(phantom()), **{key: str(value) for key, value in header.items()})
    radiograph = read(encode(made))
    assert np.array_equal(radiograph.pixels, read(make_dicom()).pixels)
    assert len(invalid(radiograph)) == len(header)


@pytest.mark.parametrize("text", ["Monochrome2", "monochrome2", "MONOCHROME2\0\0", " MONOCHROME2"])
def test_small_letters_and_padding_are_read(text: str) -> None:
    """A code is the same in small letters, and with whatever fills it up."""
    radiograph = read(encode(set_text(dataset(phantom()), PhotometricInterpretation=text)))
    assert np.array_equal(radiograph.pixels, read(make_dicom()).pixels)
    assert radiograph.warnings == ()


def test_tables_of_big_endian_files_are_swapped() -> None:
    """The entries of a VOI LUT of VR OW have the byte order of their file."""
    entries = np.rint(4095 * np.linspace(0, 1, 4096) ** 2).astype(np.uint16)
    little = make_dicom(VOILUTSequence=Sequence([lut_item(0, entries, 12)]))
    item = lut_item(0, entries, 12)
    # pydicom writes the bytes of OW as they are.
    item["LUTData"].value = entries.astype(">u2").tobytes()
    made = dataset(phantom(), VOILUTSequence=Sequence([item]))
    made.PixelData = phantom().byteswap().tobytes()
    made["PixelData"].VR = "OW"
    assert np.array_equal(read(encode(made, ExplicitVRBigEndian)).pixels, read(little).pixels)


def test_meta_information_without_vr_and_preamble() -> None:
    """A file that begins with an implicit meta header, without preamble, is the radiograph of its proper twin."""
    uid = b"1.2.840.10008.1.2.1\0"
    version = b"\2\0\1\0\2\0\0\0\0\1"
    syntax = b"\2\0\x10\0" + len(uid).to_bytes(4, "little") + uid
    meta = b"\2\0\0\0\4\0\0\0" + len(version + syntax).to_bytes(4, "little") + version + syntax
    body = make_dicom(preamble=False)
    assert np.array_equal(read(meta + body).pixels, read(make_dicom()).pixels)


def test_film_scans_have_a_spacing() -> None:
    """Nominal Scanned Pixel Spacing is used where there is no other, and oblong pixels are told."""
    oblong = read(make_dicom(NominalScannedPixelSpacing=[0.4, 0.2]))
    assert oblong.spacing == (0.4, 0.2)
    assert [warning.split(":")[0] for warning in oblong.warnings] == ["anisotropic_pixels"]
    assert read(make_dicom(NominalScannedPixelSpacing=[0.4, 0.2], ImagerPixelSpacing=[0.1, 0.1])).spacing == (0.1, 0.1)


def test_burned_in_text_is_a_warning_where_it_is_allowed() -> None:
    """`burned_in: warn` turns the refusal into a warning of the same name."""
    radiograph = read(make_dicom(BurnedInAnnotation="YES"), burned_in="warn")
    assert [warning.split(":")[0] for warning in radiograph.warnings] == ["burned_in_annotation"]


def test_equal_values_are_one() -> None:
    """High Bit written twice is High Bit."""
    made = dataset(phantom(), HighBit=[11, 11])
    assert np.array_equal(read(encode(made)).pixels, read(make_dicom()).pixels)
    with pytest.raises(UnreadableInput, match="High Bit"):
        read(encode(dataset(phantom(), HighBit=[11, 12])))


def test_bits_stored_by_high_bit() -> None:
    """Without Bits Stored, High Bit says it (PS3.5 8.1.1); without both, all allocated bits are stored."""
    assert np.array_equal(read(make_dicom(drop=("BitsStored",))).pixels, read(make_dicom()).pixels)
    deep = phantom(bits=16)
    whole = read(make_dicom(deep, bits=16, drop=("BitsStored", "HighBit")))
    assert np.array_equal(whole.pixels, read(make_dicom(deep, bits=16)).pixels)


@pytest.mark.parametrize(
    ("header", "keyword"),
    [
        ({"RescaleSlope": "1e-300"}, "RescaleSlope"),
        ({"RescaleSlope": "1e300"}, "RescaleSlope"),
        ({"RescaleIntercept": "-1e300"}, "RescaleIntercept"),
        ({"PixelAspectRatio": "0\\0"}, "PixelAspectRatio"),
        ({"PixelAspectRatio": "1\\0"}, "PixelAspectRatio"),
        ({"PixelAspectRatio": "1"}, "PixelAspectRatio"),
        ({"PresentationIntentType": "?" * 70}, "PresentationIntentType"),
    ],
)
def test_values_beyond_reason(header: dict[str, str], keyword: str) -> None:
    """Numbers that would make one gray of all pixels, or of no meaning, are as absent, with a warning by tag."""
    radiograph = read(encode(set_text(dataset(phantom()), **header)))
    assert np.array_equal(radiograph.pixels, read(make_dicom()).pixels)
    assert [describe_tag(keyword) in warning for warning in invalid(radiograph)] == [True]


@pytest.mark.parametrize("header", [{"WindowCenter": "1e300"}, {"WindowWidth": "1e300"}])
def test_a_window_beyond_reason(header: dict[str, str]) -> None:
    """Such a window is as absent: the picture is scaled by its percentiles."""
    radiograph = read(encode(set_text(dataset(phantom()), **header)))
    absent = read(make_dicom(drop=tuple(header)))
    assert np.array_equal(radiograph.pixels, absent.pixels)
    assert len(invalid(radiograph)) == 1


@pytest.mark.parametrize("keyword", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("entries", [np.zeros(4096), np.full(4096, 7), np.array([4095])])
def test_a_table_of_one_value(keyword: str, entries: np.ndarray) -> None:
    """A table that maps all pixels to one value is as absent: the window is used."""
    radiograph = read(make_dicom(**{keyword: Sequence([lut_item(0, entries, 12)])}))
    assert np.array_equal(radiograph.pixels, read(make_dicom()).pixels)
    assert [describe_tag(keyword) in warning for warning in invalid(radiograph)] == [True]
