"""What every document of a draft repeats of patient and study, and how it names the model and what it replaces."""

import datetime

from pydicom.config import RAISE
from pydicom.dataset import Dataset
from pydicom.valuerep import validate_value

from bridge.documents.draft import Draft, plain
from bridge.identity import document_uid, series_uid
from bridge.settings import Report
from bridge.study import PATIENT, STUDY

LONGEST_LO = 64


def identify(image: Dataset) -> Dataset:
    """Return what a document repeats of an image: its references, its patient and its study, each value valid.

    What the standard requires and the image lacks is empty (type 2); what it has in an invalid form is left empty too,
    because a PACS may refuse the document for it.
    """
    evidence = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
        evidence[keyword] = image[keyword]
    for keyword in (*PATIENT, *STUDY):
        value = image.get(keyword)
        if value in (None, ""):
            if keyword != "IssuerOfPatientID":
                setattr(evidence, keyword, "" if keyword in ("PatientName", "ReferringPhysicianName") else None)
            continue
        # As text: a name remembers the bytes of the character set that it was read in.
        setattr(evidence, keyword, str(value) if _valid(image, keyword) else None)
    if evidence.PatientSex not in ("M", "F", "O"):
        evidence.PatientSex = None
    return evidence


def _valid(image: Dataset, keyword: str) -> bool:
    element = image[keyword]
    if element.VM > 1:
        return False
    try:
        validate_value(element.VR, str(element.value), RAISE)
    except ValueError:
        return False
    return True


def model_name(draft: Draft) -> str:
    """Return name and version of the model."""
    model = draft.answer["model"]
    return short(f"{model['name']} {model['version']}")


def device_uid(draft: Draft) -> str:
    """Return the UID of the model as a device: of its weights, so that two sites name the same model equally."""
    return f"2.25.{int(draft.answer['model']['sha256'][:32], 16)}"


def sign(document: Dataset, draft: Draft, settings: Report) -> None:
    """Write the device as author (PS3.3 C.17.2, Table 10-1 with type DEV) and the time zone."""
    author = Dataset()
    author.ObserverType = "DEV"
    author.StationName = short(draft.answer["model"]["name"])[:16]
    author.DeviceUID = device_uid(draft)
    author.Manufacturer = settings.manufacturer
    author.ManufacturerModelName = model_name(draft)
    author.InstitutionName = None
    author.InstitutionCodeSequence = []
    document.AuthorObserverSequence = [author]
    document.TimezoneOffsetFromUTC = datetime.datetime.now().astimezone().strftime("%z")


def predecessor(draft: Draft, kind: str, sop_class: str) -> Dataset:
    """Return the references of the document that the draft's document of this kind replaces."""
    document = Dataset()
    document.SOPClassUID = sop_class
    document.SOPInstanceUID = document_uid(draft.replaces, kind)
    document.StudyInstanceUID = draft.study_uid
    document.SeriesInstanceUID = series_uid(draft.study_uid, kind)
    return document


def short(text: str) -> str:
    """Return text that fits LO (PS3.5 6.2)."""
    return plain(text).replace("\\", "/").replace("\n", " ").replace("\t", " ")[:LONGEST_LO]
