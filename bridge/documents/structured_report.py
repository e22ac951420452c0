"""What the two structured reports have in common: flags, author, observer and algorithm."""

import json

from highdicom.sr import Comprehensive3DSR, ComprehensiveSR, ContainerContentItem
from highdicom.sr.coding import CodedConcept
from highdicom.sr.templates import AlgorithmIdentification, DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom.dataset import Dataset

from bridge.configuration.settings import ReportSettings
from bridge.dicom.identity import KINDS, device_uid, document_uid, series_uid
from bridge.documents.context import identify, list_predecessors, model_name, short, sign
from bridge.documents.draft import Draft, plain

DEVICE = CodedConcept("121007", "DCM", "Device")
ENGLISH = CodedConcept("en", "RFC5646", "English")
COMMENT = CodedConcept("121106", "DCM", "Comment")


def write_structured_report(
    form: type[ComprehensiveSR | Comprehensive3DSR],
    content: ContainerContentItem,
    draft: Draft,
    settings: ReportSettings,
    kind: str,
    *,
    sop_class: str,
) -> Dataset:
    """Return a structured report: UNVERIFIED, PRELIMINARY and COMPLETE (PS3.3 C.17.2), with the device as its author.

    form      : of highdicom
    kind      : of the document, see bridge.dicom.identity
    sop_class : which the content must satisfy; it may be another one than that of the form
    """
    model = draft.answer["model"]
    document = form(
        evidence=[identify(image) for image in draft.evidence],
        content=content,
        series_instance_uid=series_uid(draft.study_uid, kind),
        series_number=settings.series_number + KINDS.index(kind),
        series_description=settings.series_description,
        sop_instance_uid=document_uid(draft.uid, kind),
        instance_number=draft.place,
        manufacturer=settings.manufacturer,
        manufacturer_model_name=short(model["name"]),
        software_versions=short(str(model["version"])),
        device_serial_number=short(model["sha256"]),
        is_complete=True,
        is_verified=False,
        is_final=False,
        previous_versions=list_predecessors(draft, kind, sop_class),
        specific_character_set="ISO_IR 192",
    )
    document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = sop_class
    sign(document, draft, settings)
    return document


def observer(draft: Draft, settings: ReportSettings) -> ObserverContext:
    """Return the model as the device that observed (TID 1002, 1004)."""
    model = draft.answer["model"]
    device = DeviceObserverIdentifyingAttributes(
        uid=device_uid(model["sha256"]),
        name=short(model["name"]),
        manufacturer_name=settings.manufacturer,
        model_name=model_name(draft),
        serial_number=short(model["sha256"]),
    )
    return ObserverContext(DEVICE, device)


def algorithm(draft: Draft, settings: ReportSettings) -> AlgorithmIdentification:
    """Return the model, its options and the server's warnings as Algorithm Identification (TID 4019)."""
    model = draft.answer["model"]
    about = [f"architecture={model['architecture']}", f"use={draft.use}"]
    options = [f"{name}={json.dumps(value)}" for name, value in sorted(draft.options.items())]
    warnings = [f"warning: {warning}" for warning in draft.answer["warnings"]]
    return AlgorithmIdentification(
        name=plain(model["name"]),
        version=plain(f"{model['version']} sha256:{model['sha256']}"),
        parameters=[plain(text) for text in (*about, *options, *warnings)],
        manufacturer=settings.manufacturer,
    )
