"""Whether images are of one patient, by what their headers say: a prior of somebody else must never reach a model."""

from pydicom.dataset import Dataset

from bridge.dicom.anatomy_words import split_words

NAME_GROUPS = 3
"""Alphabetic, ideographic and phonetic (PS3.5 6.2, PN)."""
COMPARED_COMPONENTS = 2
"""Family name and given name; a middle name, prefix or suffix is often left out."""


def contradict(first: Dataset, second: Dataset) -> bool:
    """Whether two headers cannot be of one patient: ID, issuer, birth date, sex or name differ where both have one."""
    for keyword in ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"):
        values = {_text(first, keyword), _text(second, keyword)} - {""}
        if len(values) > 1:
            return True
    groups = zip(_names(first), _names(second), strict=True)
    return any(name != other for name, other in groups if name and other)


def is_same_patient(first: Dataset, second: Dataset) -> bool:
    """Whether two headers are certainly of one patient: the same ID and birth date, and nothing that contradicts them.

    An ID alone is not enough. Hospitals count from 1, and "UNKNOWN" is everybody's.
    """
    known = all(_text(one, keyword) for one in (first, second) for keyword in ("PatientID", "PatientBirthDate"))
    return known and not contradict(first, second)


def _text(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip(" \0")


def _names(header: Dataset) -> list[tuple[tuple[str, ...], ...]]:
    """Return the words of family and given name in each group, in capitals and without accents."""
    groups = [*_text(header, "PatientName").split("="), *[""] * NAME_GROUPS][:NAME_GROUPS]
    named = []
    for group in groups:
        components = [*group.split("^"), *[""] * COMPARED_COMPONENTS][:COMPARED_COMPONENTS]
        words = tuple(tuple(split_words(component)) for component in components)
        named.append(words if any(words) else ())
    return named
