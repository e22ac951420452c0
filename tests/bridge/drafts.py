"""A draft made for tests."""

from dataclasses import replace
from io import BytesIO
from typing import Any

from pydicom import dcmread

from bridge.dicom.identity import KINDS, document_uid, series_uid
from bridge.documents.draft import Draft
from bridge.documents.withdrawal import explain_withdrawal
from tests.bridge.studies import STUDY, radiograph

SENTENCES = [
    {"text": "Heart size is normal.", "confidence": 0.42, "confirm": True},
    {"text": "No acute disease.", "confidence": 0.97, "confirm": False},
]
"""Of a model that is calibrated."""
EARLIER = f"{STUDY}.8"
PRIOR = f"{EARLIER}.1.1"
"""The image of the earlier study."""
COMPARED = "Chest radiograph of 2026-06-08, read by the software with the images of this study."
DOUBT = "- Heart size is normal. (confidence 0.42)"


def make_draft(
    replaces: str = "",
    header: dict[str, Any] | None = None,
    uid: str = "2.25.123",
    *,
    dicom: bool = True,
    withdrawn: bool = False,
    prior: bool = False,
    **answer: Any,
) -> Draft:
    """Return a draft on one radiograph; `header` is of the image, `answer` goes over the server's usual one.

    prior : one of an earlier study was read too
    """
    usual = {
        "report": "Heart size is normal.",
        "sections": {"findings": "Heart size is normal.", "impression": "No acute disease."},
        "avg_logprob": -0.2,
        "warnings": ["burned_in_unknown: (0028,0301) Burned In Annotation is absent"],
        "model": {
            "name": "demo",
            "version": "1.0",
            "architecture": "mobilenet_graph",
            "sha256": "a" * 64,
            "use": "research",
        },
    }
    images = [dcmread(BytesIO(radiograph(**(header or {}))))] if dicom else []
    replaced = {kind: {document_uid(replaces, kind): series_uid(STUDY, kind)} for kind in KINDS} if replaces else {}
    earlier = dcmread(BytesIO(radiograph(study=EARLIER, StudyDate="20260608"))) if prior else None
    draft = Draft(usual | answer, images, {"num_beams": 2}, uid, replaced, place=2 if replaces else 1, prior=earlier)
    return replace(draft, answer=explain_withdrawal("dead"), withdrawn=True) if withdrawn else draft
