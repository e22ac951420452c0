"""What every document of a draft repeats of patient and study, and how it names the model and what it replaces."""

import datetime
import re

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from bridge.configuration.settings import ReportSettings
from bridge.dicom.identity import device_uid
from bridge.dicom.study_state import PATIENT, STUDY
from bridge.documents.draft import Draft, plain

KEYS = ("PatientID", "StudyInstanceUID")
SEXES = ("M", "F", "O")
LONGEST = {"LO": 64, "SH": 16, "PN": 64, "CS": 16}
"""Value representation -> its length in characters (PS3.5 6.2), here bytes; of PN that of one group, here of all."""

TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")


def identify(image: Dataset) -> Dataset:
    """Return what a document repeats of an image: its references, its patient and its study.

    What the standard requires and the image lacks is empty (type 2); what it has in an invalid form is left empty too,
    because a PACS may refuse the document for it. Names are repaired. UIDs and Patient ID are repeated exactly as they
    are, also if they are invalid: a PACS would take the document for one of another study or patient.
    """
    evidence = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
        evidence[keyword] = image[keyword]
    for keyword in (*PATIENT, *STUDY):
        value = _repeat(image, keyword)
        if value or keyword != "IssuerOfPatientID":
            vr = dictionary_VR(keyword)
            empty = "" if vr == "PN" else None
            evidence[keyword] = DataElement(keyword, vr, value or empty, validation_mode=IGNORE)
    return evidence


def _repeat(image: Dataset, keyword: str) -> str:
    """Return the text of an element as a document repeats it, or "" if it is absent or invalid."""
    if image.get(keyword) is None:
        return ""
    element = image[keyword]
    # As text: a name remembers the bytes of the character set that it was read in.
    text = "\\".join(map(str, element.value)) if element.VM > 1 else str(element.value)
    vr = dictionary_VR(keyword)
    if keyword in KEYS:
        return text
    if vr == "PN":
        return "" if element.VM > 1 else _repair_name(text)
    return text if _is_valid(text, vr) and (keyword != "PatientSex" or text in SEXES) else ""


def _is_valid(text: str, vr: str) -> bool:
    if vr == "DA":
        return _is_date(text)
    if vr == "TM":
        return TIME.fullmatch(text) is not None
    return text == short(text, LONGEST[vr])


def _repair_name(text: str) -> str:
    """Return a name of the allowed characters, components and length.

    Of its groups (alphabetic, ideographic, phonetic) the first is cut, and another is left out if it does not fit.
    """
    kept: list[str] = []
    for group in plain(text).replace("\\", " ").replace("\n", " ").split("=")[:3]:
        shown = "^".join(part.strip() for part in group.split("^")[:5])
        if not any(kept):
            kept.append(short(shown, LONGEST["PN"] - len(kept)))
        elif len("=".join([*kept, shown]).encode()) <= LONGEST["PN"]:
            kept.append(shown)
        else:
            break
    return "=".join(kept)


def _is_date(text: str) -> bool:
    try:
        return datetime.datetime.strptime(text, "%Y%m%d").strftime("%Y%m%d") == text
    except ValueError:
        return False


def model_name(draft: Draft) -> str:
    """Return name and version of the model."""
    model = draft.answer["model"]
    return short(f"{model['name']} {model['version']}")


def sign(document: Dataset, draft: Draft, settings: ReportSettings) -> None:
    """Write the device as author (PS3.3 C.17.2, Table 10-1 with type DEV) and the time zone."""
    author = Dataset()
    author.ObserverType = "DEV"
    author.StationName = short(draft.answer["model"]["name"], LONGEST["SH"])
    author.DeviceUID = device_uid(draft.answer["model"]["sha256"])
    author.Manufacturer = settings.manufacturer
    author.ManufacturerModelName = model_name(draft)
    author.InstitutionName = None
    author.InstitutionCodeSequence = []
    document.AuthorObserverSequence = [author]
    document.TimezoneOffsetFromUTC = datetime.datetime.now().astimezone().strftime("%z")


def list_predecessors(draft: Draft, kind: str, sop_class: str) -> list[Dataset] | None:
    """Return the references of the documents that the draft's document of this kind replaces, or None."""
    documents = []
    for uid, series in draft.replaces.get(kind, {}).items():
        document = Dataset()
        document.SOPClassUID = sop_class
        document.SOPInstanceUID = uid
        document.StudyInstanceUID = draft.study_uid
        document.SeriesInstanceUID = series
        documents.append(document)
    return documents or None


def short(text: str, length: int = LONGEST["LO"]) -> str:
    """Return text that fits an element of so many bytes: the standard counts characters, but some readers bytes."""
    line = plain(text).replace("\\", "/").replace("\n", " ")
    return line.encode()[:length].decode(errors="ignore").strip()
