"""One value of a DICOM header: bytes -> a code, a number, a table.

pydicom finds the elements; what lies in them is read here, because pydicom raises on a decimal comma, warns with the
value that it found, and knows no difference between an optional tag and a needed one. A reader takes a data set and a
keyword and returns None if the tag is absent or empty; it raises Invalid if there is something that it cannot read.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from prelim.errors import InputError
from prelim.images.decoder_fence import fence
from prelim.images.dicom.anatomy_words import fold
from prelim.images.dicom.gray_scale import LookupTable

TEXT_VRS = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)
NUMBER_TYPES = {"US": "u2", "SS": "i2", "US or SS": "u2", "UL": "u4", "SL": "i4", "FL": "f4", "FD": "f8"}
BYTE_VRS = frozenset(("OB", "OW", "OB or OW", "US or OW"))

# PS3.5 6.2: CS, IS, DS, UI. A Python float takes underscores, "nan" and "inf" too.
CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
WHOLE = re.compile(r"[+-]?\d{1,12}(\.0*)?")
DECIMAL = re.compile(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})([eE][+-]?\d{1,3})?")
UNIQUE_ID = re.compile(r"[0-9.]{1,64}")

# Coding Scheme Designators of SNOMED, its editions and its root in HL7 (PS3.16 table 8-1).
SNOMED = re.compile(r"SCT|SRT|SNM3|99SDM|SNOMED.*|2\.16\.840\.1\.113883\.6\.(5|96)")

# A label is read for the words in it, not for its own sake.
MAX_LABEL = 64


class Invalid(Exception):
    """A tag has a value that its reader cannot read; the message goes after the name of the tag."""


@dataclass(frozen=True)
class RawValue:
    """The bytes of one element, and how they are encoded."""

    vr: str
    data: bytes
    little_endian: bool


@dataclass(frozen=True)
class Concept:
    """An item of a code sequence: its code in SNOMED, which is unique there, and the folded words of its meaning."""

    code: str | None
    words: tuple[str, ...]


def describe_tag(keyword: str) -> str:
    """Number and name of a tag: "(0028,0004) Photometric Interpretation" for "PhotometricInterpretation"."""
    tag = tag_of(keyword)
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {dictionary_description(tag)}"


def tag_of(keyword: str) -> int:
    """The number of a tag; KeyError for a keyword that is not in the standard."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag


def standard_name(uid: str) -> str:
    """The name and number of a UID of the standard; any other could be that of a patient's image."""
    with fence("a UID"):
        name = UID(uid).name
        return f"'{name}' ({uid})" if name != uid else "not in the standard" if uid else "absent"


def read_raw(dataset: Dataset, keyword: str) -> RawValue | None:
    """The bytes of a tag; None if it is absent or empty."""
    tag = tag_of(keyword)
    if tag not in dataset:
        return None
    element = dataset.get_item(tag, keep_deferred=True)
    if not isinstance(element, RawDataElement):
        # pydicom converts two things at once: what is empty, and sequences of undefined length.
        if element.is_empty:
            return None
        raise Invalid("is a sequence")
    if not element.value:
        return None
    vr = str(element.VR)
    if vr not in TEXT_VRS and vr not in NUMBER_TYPES and vr not in BYTE_VRS:
        # Implicit VR, UN, and damaged VRs.
        vr = dictionary_VR(tag)
    return RawValue(vr, element.value, element.is_little_endian)


def read_presence(dataset: Dataset, keyword: str) -> bool | None:
    """True if the tag is there, whatever its value."""
    return True if tag_of(keyword) in dataset else None


def read_texts(dataset: Dataset, keyword: str) -> list[str] | None:
    """The values of a tag of text, without padding and without empty values at the end."""
    raw = read_raw(dataset, keyword)
    if raw is None:
        return None
    if raw.vr not in TEXT_VRS:
        raise Invalid("is not text")
    values = [value.strip(" \0\t\r\n") for value in _decode(raw.data).split("\\")]
    while values and not values[-1]:
        values.pop()
    return values or None


def _decode(data: bytes) -> str:
    """Text as UTF-8 if it is that, else as Latin-1; words of other character sets are not known anyway."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_code(dataset: Dataset, keyword: str) -> str | None:
    """The first code in capitals, although the standard has no small letters (PS3.5 6.2: CS).

    What is not a code is never returned: in a damaged file it may be the patient's name, a few tags further on.
    """
    values = read_texts(dataset, keyword)
    if values is None:
        return None
    code = values[0].upper()
    if not CODE.fullmatch(code):
        raise Invalid("is not a code")
    return code


def read_words(dataset: Dataset, keyword: str) -> tuple[str, ...] | None:
    """The words of a label such as "Thorax p.a./lat", folded; they may be anything, even a name."""
    values = read_texts(dataset, keyword)
    if values is None:
        return None
    if sum(map(len, values)) > MAX_LABEL:
        raise Invalid("is too long for a code")
    return split_words(" ".join(values))


def split_words(text: str) -> tuple[str, ...]:
    """The words of a text, folded."""
    return tuple(re.findall(r"[^\W_]+", fold(text.replace(".", ""))))


def read_uid(dataset: Dataset, keyword: str) -> str | None:
    """A UID."""
    values = read_texts(dataset, keyword)
    if values is None:
        return None
    if not UNIQUE_ID.fullmatch(values[0]):
        raise Invalid("is not a UID")
    return values[0]


def read_numbers(dataset: Dataset, keyword: str) -> np.ndarray | None:
    """The values of a binary tag, (n,)."""
    raw = read_raw(dataset, keyword)
    if raw is None:
        return None
    kind = NUMBER_TYPES.get(raw.vr)
    if kind is None or len(raw.data) % int(kind[1:]):
        raise Invalid("is not a number")
    return np.frombuffer(raw.data, dtype=("<" if raw.little_endian else ">") + kind)


def read_whole(dataset: Dataset, keyword: str) -> int | None:
    """One whole number, which some writers repeat."""
    raw = read_raw(dataset, keyword)
    if raw is None:
        return None
    if raw.vr not in TEXT_VRS:
        numbers = read_numbers(dataset, keyword)
        if numbers is None or len(set(numbers.tolist())) != 1 or numbers.dtype.kind == "f":
            raise Invalid("is not one whole number")
        return int(numbers[0])
    texts = read_texts(dataset, keyword)
    if texts is None:
        return None
    text, *others = set(texts)
    if others or not WHOLE.fullmatch(text):
        raise Invalid("is not one whole number")
    return int(text.partition(".")[0])


def read_decimals(dataset: Dataset, keyword: str) -> tuple[float, ...] | None:
    """The numbers of a tag up to the first value that is invalid."""
    raw = read_raw(dataset, keyword)
    if raw is None:
        return None
    if raw.vr in TEXT_VRS:
        texts = read_texts(dataset, keyword)
        if texts is None:
            return None
        numbers = [float(text) if DECIMAL.fullmatch(text) else math.nan for text in texts]
    else:
        stored = read_numbers(dataset, keyword)
        numbers = [] if stored is None else [float(number) for number in stored]
    finite = next((place for place, number in enumerate(numbers) if not math.isfinite(number)), len(numbers))
    if finite == 0:
        raise Invalid("is not a finite number")
    return tuple(numbers[:finite])


def read_items(dataset: Dataset, keyword: str) -> tuple[Dataset, ...] | None:
    """The items of a sequence."""
    tag = tag_of(keyword)
    if tag not in dataset:
        return None
    element = dataset.get_item(tag, keep_deferred=True)
    try:
        with fence(describe_tag(keyword)):
            value = dataset[tag].value
    except InputError:
        raise Invalid("is not a readable sequence") from None
    if value is None or value == b"":
        return None
    if not isinstance(value, Sequence):
        raise Invalid("is not a sequence")
    if not value and isinstance(element, RawDataElement) and element.value:
        # pydicom is silent about bytes that are not items.
        raise Invalid("is not a readable sequence")
    return tuple(value) or None


def read_coded_concepts(dataset: Dataset, keyword: str) -> tuple[Concept, ...] | None:
    """The items of a code sequence (PS3.3 table 8.8-1)."""
    items = read_items(dataset, keyword)
    if items is None:
        return None
    concepts = tuple(filter(None, map(read_concept, items)))
    if not concepts:
        raise Invalid("has no code")
    return concepts


def read_concept(item: Dataset) -> Concept | None:
    """The concept of one item, by its code and its meaning; None without both."""
    code = None
    scheme = read_texts(item, "CodingSchemeDesignator")
    if scheme is None or SNOMED.fullmatch(scheme[0].upper()):
        texts = read_texts(item, "CodeValue") or read_texts(item, "LongCodeValue")
        if texts and re.fullmatch(r"[A-Z0-9-]{1,18}", texts[0].upper()):
            code = texts[0].upper()
    meaning = read_texts(item, "CodeMeaning")
    words = split_words(meaning[0][:MAX_LABEL]) if meaning else ()
    return Concept(code, words) if code or words else None


def read_table(dataset: Dataset, keyword: str) -> LookupTable | None:
    """The table of the first item of a LUT sequence (PS3.3 C.11.1.1).

    Its `first` is as it is stored: whether it is signed depends on other tags.
    """
    items = read_items(dataset, keyword)
    if items is None:
        return None
    return read_entries(items[0], "LUTDescriptor", "LUTData")


def read_entries(dataset: Dataset, descriptor: str, data: str) -> LookupTable:
    """A table from the tags of its descriptor and of its entries; raises Invalid unless both are usable."""
    numbers, raw = read_numbers(dataset, descriptor), read_raw(dataset, data)
    if numbers is None or len(numbers) != 3 or raw is None:
        raise Invalid("has no table")
    length, bits = int(numbers[0]) % 2**16 or 2**16, int(numbers[2]) % 2**16
    if not 1 <= bits <= 16:
        raise Invalid(f"has entries of {bits} bits")
    words = np.frombuffer(raw.data[: len(raw.data) // 2 * 2], dtype="<u2" if raw.little_endian else ">u2")
    entries: np.ndarray = words.astype("<u2")
    # Entries of 8 bits may lie two in a word (PS3.3 C.11.1.1.1).
    if bits <= 8 and len(raw.data) < 2 * length:
        entries = np.frombuffer(raw.data, dtype=np.uint8) if raw.vr == "OB" else entries.view(np.uint8)
    if len(entries) < length:
        raise Invalid("has a table shorter than its descriptor")
    return LookupTable(int(numbers[1]), entries[:length].astype(np.float64), bits)
