"""A draft as FHIR R4: a transaction of DiagnosticReport, Device and Provenance, after HL7's AI Transparency on FHIR."""

import base64
import datetime
import uuid
from typing import Any

import requests
from pydicom.dataset import Dataset

from bridge.configuration.settings import FhirSettings
from bridge.dicom.identity import DRAFT
from bridge.documents.draft import NOTICE, Draft, plain
from bridge.failures import Outage
from bridge.peers.sessions import Detour, http_failure, open_authorized

Resource = dict[str, Any]

AI_ASSERTED = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}
RADIOLOGY = {"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD", "display": "Radiology"}
CHEST_RADIOGRAPH = {"system": "http://loinc.org", "code": "30745-4", "display": "Chest Xray Study"}
AUTHOR = {
    "system": "http://terminology.hl7.org/CodeSystem/provenance-participant-type",
    "code": "author",
    "display": "Author",
}
DICOM_UID = "urn:dicom:uid"


class FhirClient:
    """Sends drafts to a FHIR server."""

    def __init__(self, settings: FhirSettings) -> None:
        self._settings = settings
        self._session = open_authorized(settings.url, settings.token_file, settings.ca_file)

    def send(self, draft: Draft) -> None:
        """Send a draft. Its resources have ids that follow from it, so that a second time changes nothing.

        Raises Outage, StudyFailure.
        """
        try:
            answer = self._session.post(
                self._settings.url,
                json=write_bundle(draft),
                headers={"Content-Type": "application/fhir+json"},
                timeout=self._settings.timeout_s,
            )
        except Detour:
            raise Outage("fhir_Detour") from None
        except requests.RequestException:
            raise Outage("fhir_unreachable") from None
        if not answer.ok:
            # 404: the base URL of the settings is wrong.
            raise http_failure("fhir", answer.status_code, 404)


def write_bundle(draft: Draft) -> Resource:
    """Return the transaction."""
    report = uuid.uuid5(uuid.NAMESPACE_OID, draft.uid)
    model = draft.answer["model"]
    device = uuid.uuid5(uuid.NAMESPACE_OID, model["sha256"])
    written = draft.written.isoformat(timespec="seconds")
    resources = [
        _device(draft, str(device)),
        _report(draft, str(report), written),
        _provenance(draft, str(report), str(device), written),
    ]
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}}
            for one in resources
        ],
    }


def _report(draft: Draft, own: str, written: str) -> Resource:
    """Return the report. R4 takes no Device as its performer; the author is in the Provenance."""
    image = draft.header
    sections = [f"{name.capitalize()}: {text}" for name, text in draft.sections()]
    text = "\n\n".join([NOTICE, *sections, *(text for _, text in draft.remarks())])
    report: Resource = {
        "resourceType": "DiagnosticReport",
        "id": own,
        "meta": {"security": [AI_ASSERTED]},
        "identifier": [{"system": DICOM_UID, "value": f"urn:oid:{draft.uid}"}],
        "status": "cancelled" if draft.withdrawn else "preliminary",
        "category": [{"coding": [RADIOLOGY]}],
        "code": {"coding": [CHEST_RADIOGRAPH]},
        "issued": written,
        "conclusion": text,
        "presentedForm": [
            {"contentType": "text/plain; charset=utf-8", "data": base64.b64encode(text.encode()).decode("ascii")}
        ],
    }
    if draft.images:
        study = {"system": DICOM_UID, "value": f"urn:oid:{draft.study_uid}"}
        report["imagingStudy"] = [{"type": "ImagingStudy", "identifier": study}]
    patient = plain(str(image.get("PatientID") or ""))
    if patient:
        report["subject"] = {"type": "Patient", "identifier": {"value": patient}}
    accession = plain(str(image.get("AccessionNumber") or ""))
    if accession:
        kind = {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}
        report["basedOn"] = [{"type": "ServiceRequest", "identifier": {"type": {"coding": [kind]}, "value": accession}}]
    taken = _date(image)
    if taken:
        report["effectiveDateTime"] = taken
    return report


def _device(draft: Draft, own: str) -> Resource:
    model = draft.answer["model"]
    return {
        "resourceType": "Device",
        "id": own,
        "identifier": [{"system": "urn:ietf:rfc3986", "value": f"urn:uuid:{own}"}],
        "manufacturer": "Prelim",
        "serialNumber": model["sha256"],
        "deviceName": [{"name": model["name"], "type": "model-name"}],
        "version": [{"value": str(model["version"])}],
        "note": [{"text": f"architecture {model['architecture']}; use: {draft.use}; not a medical device"}],
    }


def _provenance(draft: Draft, report: str, device: str, written: str) -> Resource:
    """Return who wrote the report from what: the device, the images, and the draft that is replaced."""
    images = [{"role": "source", "what": _image(image, draft)} for image in draft.evidence]
    replaced = [
        {"role": "revision", "what": {"identifier": {"system": DICOM_UID, "value": f"urn:oid:{uid}"}}}
        for uid in draft.replaces.get(DRAFT, ())
    ]
    provenance = {
        "resourceType": "Provenance",
        "id": report,
        "target": [{"reference": f"DiagnosticReport/{report}"}],
        "recorded": written,
        "agent": [{"type": {"coding": [AUTHOR]}, "who": {"reference": f"Device/{device}"}}],
    }
    # FHIR has no empty lists.
    return provenance | ({"entity": images + replaced} if images else {})


def _image(image: Dataset, draft: Draft) -> Resource:
    """Return the reference of an image that was read; that of a prior says of which study it is."""
    reference = {"identifier": {"system": DICOM_UID, "value": f"urn:oid:{image.SOPInstanceUID}"}}
    if image is not draft.prior:
        return reference
    return reference | {"display": f"image of the earlier study urn:oid:{image.StudyInstanceUID}, {_date(image)}"}


def _date(image: Dataset) -> str:
    """Return the study's date in FHIR's form, or "" if it is absent or invalid."""
    try:
        return datetime.datetime.strptime(str(image.get("StudyDate") or ""), "%Y%m%d").date().isoformat()
    except ValueError:
        return ""
