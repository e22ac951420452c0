"""What documents take from an answer of the server."""

import pytest

from bridge.documents.answer import MAX_REPORT, HttpError, read_report
from tests.bridge.endpoints.test_draft_route import GOOD


def test_sentences_are_as_long_and_as_many_as_a_report_has_them() -> None:
    """A model that writes no full stop, or nothing else, gets a draft; more than a report can have is refused."""
    for texts in (["x" * MAX_REPORT], ["."] * 1024):
        sentences = [{"text": text, "confidence": 0.5, "confirm": True} for text in texts]
        assert read_report(GOOD | {"report": "".join(texts), "sentences": sentences})["sentences"] == sentences
    with pytest.raises(HttpError, match=f"report.sentences may have {MAX_REPORT} characters"):
        read_report(GOOD | {"sentences": [*sentences, {"text": "x" * MAX_REPORT, "confidence": 0.5, "confirm": True}]})
