"""What leaves the bridge for the server has the picture and nothing that identifies a person."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.sequence import Sequence

from bridge.dicom import anatomy_words
from bridge.dicom.deidentify import ALLOWED, write_deidentified
from bridge.dicom.identity import SiteKey
from prelim.images.dicom.anatomy import REGION_OF_CODE, REGION_OF_WORD, VIEW_OF_CODE, VIEW_OF_WORD
from prelim.images.dicom.tags import TAGS
from prelim.images.input_config import InputConfig
from prelim.images.radiograph import read_radiograph
from tests.bridge.planted import MARKERS, plant
from tests.dicom_files import compress, dataset, encapsulate, encode, lut_item, phantom, set_text

KEY = SiteKey(b"k" * 32)


def deidentify(made: Dataset) -> bytes:
    """Return the file that the server would get."""
    return write_deidentified(dcmread(BytesIO(encode(made))), KEY)


def test_no_planted_identity_leaves() -> None:
    """25 identifying strings in names, free text, private tags, codes, nested items and UIDs: none is in the file."""
    made = plant(dataset(phantom()))
    original = encode(made)
    file = write_deidentified(dcmread(BytesIO(original)), KEY)

    assert len(MARKERS) >= 25
    assert [marker for marker in MARKERS if marker.encode() not in original] == []
    assert [marker for marker in MARKERS if marker.encode() in file] == []


def _jpeg(**options: Any) -> bytes:
    """Return the phantom as JPEG or JPEG 2000, by the format."""
    file = BytesIO()
    Image.fromarray((phantom() >> 4).astype("uint8")).save(file, **options)
    return file.getvalue()


def _surrounded() -> dict[str, bytes]:
    """Return files with text around their pixels, by where it is."""
    exif = Image.Exif()
    exif[0x010E] = "PLANTEXIF"
    jpeg, jpeg_2000 = _jpeg(format="JPEG"), _jpeg(format="JPEG2000", comment="PLANTCOM")
    start = b"\xff\xd8\xff\xed" + struct.pack(">H", 12) + b"PLANTAPP13"
    native = dataset(phantom())
    native.PixelData += b"PLANTPIXELS "
    rle = dcmread(BytesIO(compress(phantom(), "1.2.840.10008.1.2.5")))
    fragment = next(generate_frames(rle.PixelData, number_of_frames=1))
    item = struct.pack("<HHLHHL", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(jpeg) + len(jpeg) % 2)
    more = struct.pack("<HHL", 0xFFFE, 0xE000, 10) + b"PLANTFRAGM"
    files = {"native": encode(native)}
    baseline, eight = "1.2.840.10008.1.2.4.50", {"bits": 8}
    streams = {
        "exif": _jpeg(format="JPEG", exif=exif, comment="PLANTCOM"),
        "app13": start + jpeg[2:],
        "after the end": jpeg + b"PLANTEND",
    }
    files |= {name: encapsulate(stream, baseline, **eight) for name, stream in streams.items()}
    items = item + jpeg + b"\0" * (len(jpeg) % 2) + more
    files["second fragment"] = encapsulate(b"", baseline, items=items, **eight)
    files["JPEG 2000"] = encapsulate(jpeg_2000, "1.2.840.10008.1.2.4.90", **eight)
    files["codestream"] = encapsulate(
        jpeg_2000[jpeg_2000.index(b"\xff\x4f\xff\x51") :] + b"PLANTEND", "1.2.840.10008.1.2.4.90", **eight
    )
    files["RLE"] = encapsulate(fragment + b"PLANTRLE", "1.2.840.10008.1.2.5")
    return files


def test_text_around_the_pixels_does_not_leave() -> None:
    """Neither before nor after the coded picture, which stays the same."""
    for where, original in _surrounded().items():
        file = write_deidentified(dcmread(BytesIO(original)), KEY)
        assert b"PLANT" in original, where
        assert b"PLANT" not in file, where
        # The server refuses some of these files as they were.
        assert read_radiograph(file, InputConfig()).pixels.shape == phantom().shape, where


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"])
def test_a_compressed_picture_stays_the_same(syntax: str) -> None:
    """JPEG-LS, JPEG 2000 and RLE, 12 bits."""
    original = compress(phantom(), syntax)
    file = write_deidentified(dcmread(BytesIO(original)), KEY)
    first, second = (read_radiograph(one, InputConfig()) for one in (original, file))
    assert np.array_equal(first.pixels, second.pixels)


def test_text_does_not_leave_as_a_lookup_table() -> None:
    """A table of gray levels rises or falls; the letters of a name do both."""
    item = Dataset()
    item.LUTDescriptor = [16, 0, 16]
    item.add_new("LUTData", "OW", b"PLANTED^NAME " * 2 + b"PLANTE")
    made = dcmread(BytesIO(encode(dataset(phantom()))))
    made.VOILUTSequence = Sequence([item])
    assert b"PLANT" not in write_deidentified(made, KEY)


def test_nothing_but_the_allowed_elements_leaves() -> None:
    """The file has no element outside the list, no private one, and only lookup tables and codes inside sequences."""
    result = dcmread(BytesIO(deidentify(plant(dataset(phantom())))))

    assert {element.keyword for element in result} <= {*ALLOWED, "PixelData"}
    assert result.file_meta.get("SourceApplicationEntityTitle") is None


def test_the_server_sees_the_same_picture() -> None:
    """Every tag that the server reads is in the list; pixels, warnings and view do not depend on the rest."""
    read = {tag.keyword for tag in TAGS.values()} - {"FloatPixelData", "DoubleFloatPixelData"}
    assert read <= {*ALLOWED, "PixelData"}

    made = dataset(
        phantom(),
        RescaleSlope="-2",
        RescaleIntercept="5000",
        PixelSpacing=["0.15", "0.15"],
        BodyPartExamined="Thorax pa",
        ViewPosition="PA",
        PixelPaddingValue=7,
        VOILUTSequence=Sequence([lut_item(0, np.arange(4096) * 16, 16)]),
        ViewCodeSequence=Sequence([_code("272479007", "postero-anterior")]),
    )
    original, result = encode(made), deidentify(made)
    first, second = (read_radiograph(file, InputConfig()) for file in (original, result))

    assert np.array_equal(first.pixels, second.pixels)
    assert (first.warnings, first.view, first.spacing) == (second.warnings, second.view, second.spacing)


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def test_words_and_codes_are_those_of_the_server() -> None:
    """The server ignores words that it does not know, so leaving them out changes nothing."""
    assert set(REGION_OF_WORD) == anatomy_words.REGION_WORDS
    assert set(VIEW_OF_WORD) == anatomy_words.VIEW_WORDS
    assert set(REGION_OF_CODE) == anatomy_words.REGION_CODES
    assert set(VIEW_OF_CODE) == anatomy_words.VIEW_CODES
    assert {word for word, region in REGION_OF_WORD.items() if "CHEST" in region} == anatomy_words.CHEST_WORDS
    assert {code for code, region in REGION_OF_CODE.items() if "CHEST" in region} == anatomy_words.CHEST_CODES
    frontal = {"AP", "PA", "FRONTAL"}
    assert {word for word, view in VIEW_OF_WORD.items() if view in frontal} == anatomy_words.FRONTAL_WORDS
    assert {code for code, view in VIEW_OF_CODE.items() if view in frontal} == anatomy_words.FRONTAL_CODES
    lateral = {"LL", "RL", "LATERAL"}
    assert {word for word, view in VIEW_OF_WORD.items() if view in lateral} == anatomy_words.LATERAL_WORDS
    assert {code for code, view in VIEW_OF_CODE.items() if view in lateral} == anatomy_words.LATERAL_CODES


@pytest.mark.parametrize("keyword", sorted(set(ALLOWED) - {"AnatomicRegionSequence", "ViewCodeSequence"}))
def test_text_in_an_allowed_element_does_not_leave(keyword: str) -> None:
    """A name in any allowed element, whatever its VR should be, is left out."""
    dirty = dcmread(BytesIO(encode(dataset(phantom()))))
    if keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        item = Dataset()
        item.LUTExplanation = "PLANTED^NAME"
        item.LUTDescriptor = [256, 0, 16]
        item.LUTData = b"PLANTED^NAME"
        setattr(dirty, keyword, Sequence([item]))
    else:
        set_text(dirty, **{keyword: "PLANTED^NAME"})

    assert b"PLANTED" not in write_deidentified(dirty, KEY)


def test_uids_are_replaced_consistently_and_only_with_the_key() -> None:
    """One UID has one pseudonym at a site, another at another site, and both are valid."""
    first, again = (KEY.replace_uid("1.2.3") for _ in range(2))

    assert first == again
    assert first != SiteKey(b"x" * 32).replace_uid("1.2.3")
    assert first.startswith("2.25.")
    assert len(first) <= 64
