"""Values of a DICOM header, tag by tag, as codes and numbers.

Only the tags in KEYWORDS are taken from the file: names, numbers and dates of patients never become values.
"""

from __future__ import annotations

import math
import re
from io import BytesIO
from typing import Any

from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from prelim.errors import UnreadableInput
from prelim.images.decoder_fence import fenced
from prelim.images.dicom.structure import DataSet

KEYWORDS = (
    "SOPClassUID",
    "Modality",
    "PresentationIntentType",
    "ImagerPixelSpacing",
    "ViewPosition",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "PixelAspectRatio",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "BurnedInAnnotation",
    "WindowCenter",
    "WindowWidth",
    "RescaleIntercept",
    "RescaleSlope",
    "VOILUTFunction",
    "LossyImageCompression",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "PresentationLUTShape",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
)

# PS3.3 C.9.2: (60xx,0010) Overlay Rows of the sixteen overlay groups.
OVERLAY_ROWS = tuple(0x60000010 + (group << 16) for group in range(0, 32, 2))


# In small letters, so that it equals no code.
NOT_A_CODE = "not a code"


def parse(data_set: DataSet) -> Dataset:
    """Return the elements of KEYWORDS; values are converted when `coded`, `whole` or `decimals` ask for them."""
    tags = [_tag(keyword) for keyword in KEYWORDS]
    with fenced("the DICOM header"):
        return read_dataset(
            BytesIO(data_set.body),
            data_set.implicit,
            data_set.little_endian,
            specific_tags=[*tags, *OVERLAY_ROWS],
        )


def named(keyword: str) -> str:
    """Return "(0028,0004) Photometric Interpretation" for "PhotometricInterpretation"."""
    tag = _tag(keyword)
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {dictionary_description(tag)}"


def coded(dataset: Dataset, keyword: str) -> str | None:
    """Return a coded value in capitals, or None if the tag is absent or empty.

    What is no code (PS3.5 6.2: CS) comes back as NOT_A_CODE and never as itself: in a damaged file it may be the
    patient's name, which stands a few tags further on.
    """
    value = read_value(dataset, keyword)
    if isinstance(value, tuple):
        value = value[0] if value else None
    if value is None:
        return None
    code = value.strip(" \0").upper() if isinstance(value, str) else NOT_A_CODE
    return (code if re.fullmatch(r"[A-Z0-9_ ]{1,16}", code) else NOT_A_CODE) if code else None


def whole(dataset: Dataset, keyword: str) -> int | None:
    """Return a whole number, or None if the tag is absent or empty; UnreadableInput (400) if it is none."""
    value = read_value(dataset, keyword)
    if value is None or value == "":
        return None
    if not isinstance(value, int) or abs(value) >= 2**31:
        raise UnreadableInput(f"{named(keyword)} is not one whole number; check its export")
    return int(value)


def decimals(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Return all numbers of a tag, () if it is absent or empty; UnreadableInput (400) unless they are finite."""
    value = read_value(dataset, keyword)
    if value is None or value == "":
        return ()
    values = [value] if isinstance(value, (int, float)) else value
    with fenced(named(keyword)):
        numbers = tuple(float(number) for number in values)
    if not all(math.isfinite(number) for number in numbers):
        raise UnreadableInput(f"{named(keyword)} is not finite; check its export")
    return numbers


def standard_name(uid: str) -> str:
    """Return the name and number of a UID of the standard; any other could be that of a patient's image."""
    with fenced("a UID"):
        name = UID(uid).name
        return f"'{name}' ({uid})" if name != uid else "not in the standard" if uid else "absent"


def read_value(dataset: Dataset, keyword: str) -> Any:
    """Return a value as pydicom converts it; sequences of values as tuple."""
    tag = _tag(keyword)
    with fenced(named(keyword)):
        if tag not in dataset:
            return None
        value = dataset[tag].value
        if isinstance(value, (str, bytes, int, float)) or value is None:
            return value
        return tuple(value)


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag
