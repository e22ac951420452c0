"""What data sets write where they know nothing: one reading of ids, patients, splits and texts."""

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

UNKNOWN = frozenset(
    {
        "",
        "nan",
        "none",
        "null",
        "nil",
        "na",
        "n/a",
        "#n/a",
        "<na>",
        "nat",
        "nd",
        "unk",
        "unknown",
        "n.a",
        "n.d",
        "tbd",
        "tba",
        "pending",
        "missing",
        "not available",
        "see report",
        "see above",
        "see below",
        "?",
        "-",
        "--",
        "#ref!",
        "#value!",
        "#name?",
        "#div/0!",
        "#null!",
        "#num!",
    }
)
"""In any case, without white space at the ends and without a period after it."""

WHOLE = re.compile(r"^(0|[1-9]\d*)\.0+$")
"""A whole number that was written with a point; `01.0` never was a number."""

SHORTENED = re.compile(r"\d(?:[.,]\d+)?E\+\d+", re.IGNORECASE)
"""A long number as a spreadsheet shows and saves it: its last digits are lost."""

WIDTHLESS = re.compile("[\u200b-\u200f\u2060\ufeff]")
"""Characters that nobody sees, as copies from web pages and spreadsheets have them."""

PATIENT_KEYS = ("patientid", "patient", "subjectid", "subject")
"""Keys of a record that name its patient, as `fold_key` writes them."""


def read_value(value: Any) -> str | None:
    """A value as text without white space at its ends; None where it says that it is unknown.

    Zero is a value; true, false, lists and objects are not ids. Whole numbers have no point, also as text: a
    spreadsheet's 12.0 is the id 12. Accents are composed, and characters without width are left out.
    """
    if isinstance(value, bool | list | dict):
        return None
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    text = WHOLE.sub(r"\1", unicodedata.normalize("NFC", WIDTHLESS.sub("", str(value))).strip())
    return None if text.lower().rstrip(".") in UNKNOWN else text


def fold_number(name: str) -> str:
    """An id as a spreadsheet may write it that takes it for a number: `1` for `01`, `1.0`, `01.0` and ` 1`."""
    plain = name.strip()
    number = re.fullmatch(r"0*(\d+)(?:[.,]0*)?", plain)
    return number[1] if number else plain


def fold_key(key: str) -> str:
    """A key as `patientid`, however it is written: `Patient ID`, `patient_id`."""
    return re.sub(r"[\s_-]+", "", key.lower())


def read_record(record: Mapping[str, Any]) -> dict[str, str]:
    """The known values of a record, by its keys as `fold_key` writes them."""
    return {fold_key(key): value for key, item in record.items() if (value := read_value(item)) is not None}


def find_patient_value(record: Mapping[str, Any]) -> str | None:
    """The patient that a record names under one of PATIENT_KEYS; None where it names none."""
    found = read_record(record)
    return next((found[key] for key in PATIENT_KEYS if key in found), None)


def name_patient_keys(record: Mapping[str, Any]) -> list[str]:
    """The keys of a record that may name its patient, as it writes them."""
    return [key for key in record if fold_key(key) in PATIENT_KEYS]
