"""What data sets write where they know nothing: one reading of ids, patients, splits and texts."""

import math
import re
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

WHOLE = re.compile(r"^(\d+)\.0+$")
"""A whole number that a spreadsheet wrote with a point."""

PATIENT_KEYS = ("patientid", "patient_id", "patient", "subject_id", "subject")
"""Keys of a record that name its patient, in any case."""


def read_value(value: Any) -> str | None:
    """A value as text without white space at its ends; None where it says that it is unknown.

    Zero is a value, true and false are not ids. Whole numbers have no point, also as text: a spreadsheet's 12.0 is the
    id 12.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    text = WHOLE.sub(r"\1", str(value).strip())
    return None if text.lower().rstrip(".") in UNKNOWN else text


def read_record(record: Mapping[str, Any]) -> dict[str, str]:
    """The known values of a record, by its keys in lower case."""
    return {key.strip().lower(): value for key, item in record.items() if (value := read_value(item)) is not None}


def find_patient_value(record: Mapping[str, Any]) -> str | None:
    """The patient that a record names under one of PATIENT_KEYS; None where it names none."""
    found = read_record(record)
    return next((found[key] for key in PATIENT_KEYS if key in found), None)
