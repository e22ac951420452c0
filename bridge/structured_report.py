"""A draft report as a Basic Text SR (PS3.3 A.35.1), after TID 2000 Basic Diagnostic Imaging Report."""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from highdicom.sr import ComprehensiveSR, ContainerContentItem, ContentSequence, ImageContentItem, TextContentItem
from highdicom.sr.coding import CodedConcept
from highdicom.sr.templates import (
    AlgorithmIdentification,
    DeviceObserverIdentifyingAttributes,
    LanguageOfContentItemAndDescendants,
    ObserverContext,
)
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage
from pydicom.valuerep import validate_value

from bridge.identity import series_uid
from bridge.settings import Report
from bridge.study import PATIENT, STUDY

NOTICE = (
    "UNVERIFIED DRAFT. This text was written by software from the images alone and has not been read by a physician. "
    "It is not a diagnosis. The interpreting physician must read the images and write the report."
)
BANNER = "[UNVERIFIED DRAFT] "

TITLE = CodedConcept("18748-4", "LN", "Diagnostic imaging study")
DEVICE = CodedConcept("121007", "DCM", "Device")
ENGLISH = CodedConcept("en", "RFC5646", "English")
COMMENT = CodedConcept("121106", "DCM", "Comment")
SOURCE = CodedConcept("121080", "DCM", "Best illustration of finding")
SECTIONS = {
    "findings": (CodedConcept("59776-5", "LN", "Findings"), CodedConcept("121071", "DCM", "Finding")),
    "impression": (CodedConcept("19005-8", "LN", "Impressions"), CodedConcept("121073", "DCM", "Impression")),
}
"""Section of an answer -> code of its heading (PS3.16 CID 7001) and of its text (CID 7002)."""

LONGEST_LO = 64


@dataclass(frozen=True)
class Draft:
    """A report of the server, and where it belongs.

    answer   : of the server
    images   : headers of the images that were read
    options  : generation options of the request
    uid      : SOP Instance UID
    replaces : SOP Instance UID of the draft that this one replaces, or ""
    place    : its number among the study's drafts, from 1
    """

    answer: Mapping[str, Any]
    images: Sequence[Dataset]
    options: Mapping[str, Any]
    uid: str
    replaces: str = ""
    place: int = 1

    @property
    def study_uid(self) -> str:
        """The study of the draft."""
        return str(self.images[0].StudyInstanceUID)

    def sections(self) -> list[tuple[str, str]]:
        """Return (section, text); a report without sections is findings."""
        parts = [(name, self.answer["sections"].get(name)) for name in SECTIONS]
        found = [(name, text.strip()) for name, text in parts if text and text.strip()]
        return found or [("findings", self.answer["report"].strip() or "(no text)")]


def write_structured_report(draft: Draft, settings: Report) -> Dataset:
    """Return the SR document of a draft, ready to be stored.

    UNVERIFIED, PRELIMINARY and COMPLETE (PS3.3 C.17.2); the author is the device; the notice is also in the text,
    because viewers hide the flags.
    """
    evidence = [_identify(image) for image in draft.images]
    model = draft.answer["model"]
    document = ComprehensiveSR(
        evidence=evidence,
        content=_content(draft, settings),
        series_instance_uid=series_uid(draft.study_uid),
        series_number=settings.series_number,
        series_description=settings.series_description,
        sop_instance_uid=draft.uid,
        instance_number=draft.place,
        manufacturer=settings.manufacturer,
        manufacturer_model_name=_short(model["name"]),
        software_versions=_short(str(model["version"])),
        device_serial_number=_short(model["sha256"]),
        is_complete=True,
        is_verified=False,
        is_final=False,
        previous_versions=[_replaced(draft)] if draft.replaces else None,
        specific_character_set="ISO_IR 192",
    )
    # highdicom has no Basic Text SR; this document uses only what that allows (PS3.3 A.35.1.3.1).
    document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    document.AuthorObserverSequence = [_author(draft, settings)]
    document.TimezoneOffsetFromUTC = datetime.datetime.now().astimezone().strftime("%z")
    return document


def _content(draft: Draft, settings: Report) -> ContainerContentItem:
    """Return the content tree."""
    model = draft.answer["model"]
    root = ContainerContentItem(TITLE, template_id="2000")
    content = ContentSequence()
    content.extend(LanguageOfContentItemAndDescendants(ENGLISH))
    observer = DeviceObserverIdentifyingAttributes(
        uid=_device_uid(draft),
        name=_short(model["name"]),
        manufacturer_name=settings.manufacturer,
        model_name=_short(f"{model['name']} {model['version']}"),
        serial_number=_short(model["sha256"]),
    )
    content.extend(ObserverContext(DEVICE, observer))
    options = [f"{name}={json.dumps(value)}" for name, value in sorted(draft.options.items())]
    warnings = [f"warning: {warning}" for warning in draft.answer["warnings"]]
    content.extend(
        AlgorithmIdentification(
            name=model["name"],
            version=f"{model['version']} sha256:{model['sha256']}",
            parameters=[f"architecture={model['architecture']}", *options, *warnings],
            manufacturer=settings.manufacturer,
        )
    )
    content.append(TextContentItem(COMMENT, NOTICE, relationship_type="CONTAINS"))
    for name, text in draft.sections():
        heading, concept = SECTIONS[name]
        item = TextContentItem(concept, BANNER + text, relationship_type="CONTAINS")
        item.ContentSequence = ContentSequence(
            ImageContentItem(SOURCE, image.SOPClassUID, image.SOPInstanceUID, relationship_type="INFERRED FROM")
            for image in draft.images
        )
        section = ContainerContentItem(heading, relationship_type="CONTAINS")
        section.ContentSequence = ContentSequence([item])
        content.append(section)
    root.ContentSequence = content
    return root


def _identify(image: Dataset) -> Dataset:
    """Return what the document repeats of an image: its references, its patient and its study, each value valid.

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
    from pydicom.config import RAISE

    element = image[keyword]
    if element.VM > 1:
        return False
    try:
        validate_value(element.VR, str(element.value), RAISE)
    except ValueError:
        return False
    return True


def _author(draft: Draft, settings: Report) -> Dataset:
    """Return the device as author: PS3.3 C.17.2, Author Observer Sequence, Table 10-1 with type DEV."""
    model = draft.answer["model"]
    author = Dataset()
    author.ObserverType = "DEV"
    author.StationName = _short(model["name"])[:16]
    author.DeviceUID = _device_uid(draft)
    author.Manufacturer = settings.manufacturer
    author.ManufacturerModelName = _short(f"{model['name']} {model['version']}")
    author.InstitutionName = None
    author.InstitutionCodeSequence = []
    return author


def _device_uid(draft: Draft) -> str:
    """Return the UID of the model as a device: of its weights, so that two sites name the same model equally."""
    return f"2.25.{int(draft.answer['model']['sha256'][:32], 16)}"


def _replaced(draft: Draft) -> Dataset:
    document = Dataset()
    document.SOPClassUID = BasicTextSRStorage
    document.SOPInstanceUID = draft.replaces
    document.StudyInstanceUID = draft.study_uid
    document.SeriesInstanceUID = series_uid(draft.study_uid)
    return document


def _short(text: str) -> str:
    """Return text that fits LO (PS3.5 6.2)."""
    return text.replace("\\", "/")[:LONGEST_LO]
