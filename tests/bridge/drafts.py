"""A draft made for tests."""

from io import BytesIO
from typing import Any

from pydicom import dcmread

from bridge.documents.draft import Draft
from tests.bridge.studies import radiograph


def make_draft(
    replaces: str = "",
    header: dict[str, Any] | None = None,
    uid: str = "2.25.123",
    *,
    dicom: bool = True,
    **answer: Any,
) -> Draft:
    """Return a draft on one radiograph; `header` is of the image, `answer` goes over the server's usual one."""
    usual = {
        "report": "Heart size is normal.",
        "sections": {"findings": "Heart size is normal.", "impression": "No acute disease."},
        "avg_logprob": -0.2,
        "warnings": ["burned_in_unknown: (0028,0301) Burned In Annotation is absent"],
        "model": {"name": "demo", "version": "1.0", "architecture": "mobilenet_graph", "sha256": "a" * 64},
    }
    images = [dcmread(BytesIO(radiograph(**(header or {}))))] if dicom else []
    return Draft(usual | answer, images, {"num_beams": 2}, uid, replaces, 2 if replaces else 1)
