"""What the answers of a PACS mean for a study."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from bridge.configuration.settings import DicomWebSettings
from bridge.failures import Outage, StudyFailure
from bridge.peers.dicomweb import DicomWebArchive

ROW = {"0020000D": {"vr": "UI", "Value": ["1.2.3"]}}


@contextmanager
def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], tuple[int, bytes]]) -> Iterator[DicomWebArchive]:
    """Yield an archive whose PACS answers a path with a status and a body."""

    def send(_: object, request: requests.PreparedRequest, **__: Any) -> requests.Response:
        response = requests.Response()
        assert request.url is not None
        response.status_code, response._content = answer(request.url)
        response.url, response.request = request.url, request
        response.headers["Content-Type"] = "application/dicom+json"
        return response

    monkeypatch.setattr(requests.Session, "send", send)
    yield DicomWebArchive(DicomWebSettings("http://127.0.0.1:1"))


@pytest.mark.parametrize("status", [400, 404])
def test_a_study_that_a_pacs_does_not_have_is_empty(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """A study that was deleted before its turn is not a failure that somebody must look at."""
    with answering(monkeypatch, lambda url: (status, b"") if "metadata" in url else (200, b"[]")) as archive:
        study = archive.study("1.2.3")
    assert (study.images, study.drafts) == ((), {})


def test_a_wrong_address_and_a_damaged_study_are_not_empty_studies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 404 for the search too is about the settings; for a study that is found, about the study."""
    with answering(monkeypatch, lambda _: (404, b"")) as archive, pytest.raises(Outage, match="pacs_404"):
        archive.study("1.2.3")
    found = f"[{ROW}]".replace("'", '"').encode()
    with (
        answering(monkeypatch, lambda url: (404, b"") if "metadata" in url else (200, found)) as archive,
        pytest.raises(StudyFailure, match="pacs_404"),
    ):
        archive.study("1.2.3")
