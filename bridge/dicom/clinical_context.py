"""What a study says of the patient and the examination, in the fields that a server's prompt can have.

Nothing of it is sent unless the configuration lists the field: free texts can name a patient.
"""

import datetime
import re
from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from bridge.dicom.identity import orders_of

FREE_TEXTS = {
    "indication": ("ReasonForTheRequestedProcedure", "ReasonForStudy", "AdmittingDiagnosesDescription"),
    "technique": ("StudyDescription", "PerformedProcedureStepDescription", "SeriesDescription"),
}
"""Field -> elements that can have it, in the header or in an item of its orders; the first that is not empty counts."""
SEXES = ("M", "F", "O")
LONGEST = 1000
"""Characters of a text, as the server reads them."""

JOINERS = "\u200c\u200d"
"""Cannot be seen, but Persian and the scripts of India cannot be written without them; the server takes them too."""

_AGE = re.compile(r"(\d{3})([DWMY])")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def read_context(header: Dataset, wanted: Sequence[str]) -> dict[str, str]:
    """Return the wanted fields of a request that the header has, as texts of one line."""
    found = {"age": _age(header), "sex": str(header.get("PatientSex") or "").strip()}
    found["sex"] = found["sex"] if found["sex"] in SEXES else ""
    orders = orders_of(header)
    for name, keywords in FREE_TEXTS.items():
        lines = (_line(order.get(keyword)) for keyword in keywords for order in orders)
        found[name] = next(filter(None, lines), "")
    return {name: found[name] for name in wanted if found.get(name)}


def _line(value: object) -> str:
    """Return a text without line breaks and other characters that cannot be seen.

    A backslash that was typed makes several values of a text (PS3.5 6.2, LO).
    """
    text = ", ".join(map(str, value)) if isinstance(value, MultiValue) else str(value or "")
    shown = (one if one.isprintable() or one in JOINERS else " " for one in text)
    words = "".join(shown).split()
    return " ".join(words)[:LONGEST].strip()


def _age(header: Dataset) -> str:
    """Return whole years: of Patient's Age (AS, PS3.5 6.2), or between birth and study; "" if neither is valid."""
    found = _AGE.fullmatch(str(header.get("PatientAge") or "").strip())
    if found:
        years = int(int(found[1]) * _YEARS[found[2]])
    else:
        born, taken = (_date(header, keyword) for keyword in ("PatientBirthDate", "StudyDate"))
        if born is None or taken is None:
            return ""
        years = taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))
    return f"{years}" if 0 <= years <= 120 else ""


def _date(header: Dataset, keyword: str) -> datetime.date | None:
    try:
        return datetime.datetime.strptime(str(header.get(keyword) or ""), "%Y%m%d").date()
    except ValueError:
        return None
