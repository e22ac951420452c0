"""What the answers of a PACS mean for a study."""

import datetime
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from bridge.configuration.settings import DicomWebSettings, ReportSettings
from bridge.documents.basic_text import write_basic_text
from bridge.failures import Outage, StudyFailure
from bridge.peers.dicomweb import DicomWebArchive
from tests.bridge.drafts import make_draft
from tests.bridge.receivers import DETOURS, answer_all
from tests.bridge.studies import STUDY, radiograph

ROW = {"0020000D": {"vr": "UI", "Value": ["1.2.3"]}}


@contextmanager
def answering(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], tuple[int, bytes]]) -> Iterator[DicomWebArchive]:
    """Yield an archive whose PACS answers a path with a status and a body."""
    answer_all(monkeypatch, lambda url: (*answer(url), {"Content-Type": "application/dicom+json; charset=utf-8"}))
    yield DicomWebArchive(DicomWebSettings("http://127.0.0.1:1"))


def document() -> Dataset:
    """Return a draft to store."""
    return write_basic_text(make_draft(), ReportSettings())


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


@pytest.mark.parametrize(("status", "header"), DETOURS)
def test_a_login_in_front_of_the_pacs_is_an_outage(
    monkeypatch: pytest.MonkeyPatch, status: int, header: dict[str, str]
) -> None:
    """Its page comes with status 200, and requests follows a redirected POST with a GET: nothing was stored."""
    answer_all(monkeypatch, lambda url: (200, b"[]", {}) if url.endswith("/login") else (status, b"<html>", header))
    with pytest.raises(Outage, match="pacs_Detour"):
        DicomWebArchive(DicomWebSettings("http://127.0.0.1:1")).store(document())


@pytest.mark.parametrize(
    ("answer", "shown", "raised"),
    [
        ('{"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["2.25.123"]}}]}}', False, None),
        ('{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}', False, StudyFailure),
        ("", True, None),
        ("", False, Outage),
        ("{}", False, Outage),
        ("null", False, Outage),
        ('{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": ["x"]}}]}}', True, None),
        ('{"00081198": {"Value": []}}', True, None),
        ('{"00081198": {"Value": []}}', False, Outage),
    ],
)
def test_a_draft_is_stored_if_the_pacs_says_so_or_shows_it(
    monkeypatch: pytest.MonkeyPatch, answer: str, shown: bool, raised: type[Exception] | None
) -> None:
    """A status 200 alone says nothing: it can have refused the draft, or come from a machine in front of the PACS."""
    rows = b'[{"00080018": {"vr": "UI", "Value": ["2.25.123"]}}]' if shown else b"[]"
    with (
        answering(monkeypatch, lambda url: (200, rows if "metadata" in url else answer.encode())) as archive,
        nullcontext() if raised is None else pytest.raises(raised),
    ):
        archive.store(document())


@pytest.mark.parametrize("shown", [False, True])
def test_xml_that_cannot_be_read_is_no_answer(monkeypatch: pytest.MonkeyPatch, shown: bool) -> None:
    """Some archives answer a STOW-RS in XML; cut off, it says nothing."""
    rows = b'[{"00080018": {"vr": "UI", "Value": ["2.25.123"]}}]' if shown else b"[]"
    kinds = {True: "application/dicom+json", False: "application/dicom+xml"}
    answer_all(
        monkeypatch,
        lambda url: (200, rows if "metadata" in url else b"<a", {"Content-Type": kinds["metadata" in url]}),
    )
    archive = DicomWebArchive(DicomWebSettings("http://127.0.0.1:1"))
    with nullcontext() if shown else pytest.raises(Outage, match="pacs_does_not_show_the_draft"):
        archive.store(document())


@pytest.mark.parametrize("uid", ["", "..", "../patients", "1.2/3", "1.2?a=b", "1.2%2f3", "1.2 3"])
def test_a_uid_cannot_change_the_path_of_a_request(monkeypatch: pytest.MonkeyPatch, uid: str) -> None:
    """Neither of a study that a poll finds or a modality sends, nor of an image in the metadata."""
    asked: list[str] = []
    answer_all(monkeypatch, lambda url: (asked.append(url) or 200, b"[]", {}))
    archive = DicomWebArchive(DicomWebSettings("http://127.0.0.1:1"))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        header = dcmread(BytesIO(ASKED))
        header[keyword].value = uid
        with pytest.raises(StudyFailure, match="uid_unusable"):
            archive.image(header)
    with pytest.raises(StudyFailure, match="uid_unusable"):
        archive.study(uid)
    assert [url for url in asked if "metadata" in url or "instances" in url] == []


def test_a_conflict_over_a_draft_that_the_pacs_has_is_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some archives answer 409 to an instance that they have already."""
    rows = b'[{"00080018": {"vr": "UI", "Value": ["2.25.123"]}}]'
    with answering(monkeypatch, lambda url: (200, rows) if "metadata" in url else (409, b"")) as archive:
        archive.store(document())
    with (
        answering(monkeypatch, lambda url: (200, b"[]") if "metadata" in url else (409, b"")) as archive,
        pytest.raises(StudyFailure, match="pacs_409"),
    ):
        archive.store(document())


@pytest.mark.parametrize("body", ['{"error": "maintenance"}', '["a"]', "null", "[" * 100_000, "<"])
def test_json_of_another_form_is_an_outage(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """The apology of a proxy is not about the study that was asked for: in a minute all that wait would be dead."""
    with answering(monkeypatch, lambda _: (200, body.encode())) as archive:
        for ask in (lambda: archive.study("1.2.3"), lambda: list(archive.recent_studies(2, "CR"))):
            with pytest.raises(Outage):
                ask()


@pytest.mark.parametrize("value", ["{}", '{"Value": []}', '{"Value": [null]}', '{"Value": [""]}'])
def test_a_study_without_a_uid_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """A poll continues after a row of an archive that names no study."""
    rows = f'[{{"0020000D": {value}}}, {{}}, {{"0020000D": {{"vr": "UI", "Value": ["1.2.3"]}}}}]'.encode()
    with answering(monkeypatch, lambda _: (200, rows)) as archive:
        assert [uid for uid, _ in archive.recent_studies(2, "CR")] == ["1.2.3"]


def test_earlier_studies_are_asked_for_by_patient_and_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each modality once, in a query that an ID cannot leave; each row with what tells whose and when it was."""
    asked: list[str] = []
    row = '[{"0020000D": {"vr": "UI", "Value": ["1.2.3"]}, "00100020": {"vr": "LO", "Value": ["7&limit=9"]}}]'

    def answer(url: str) -> tuple[int, bytes]:
        asked.append(url)
        return 200, row.encode() if "offset=0" in url or "offset" not in url else b"[]"

    with answering(monkeypatch, answer) as archive:
        rows = list(archive.studies_of("7&limit=9", datetime.date(2026, 6, 20)))
    queries = [parse_qs(urlsplit(url).query) for url in asked]
    assert {(query["PatientID"][0], query["StudyDate"][0]) for query in queries} == {("7&limit=9", "-20260620")}
    assert {query["ModalitiesInStudy"][0] for query in queries} == {"CR", "DX"}
    assert {(str(row.StudyInstanceUID), str(row.PatientID)) for row in rows} == {("1.2.3", "7&limit=9")}


@pytest.mark.parametrize("limit", ["LONGEST_ANSWER_S", "LARGEST_ANSWER"])
def test_an_answer_without_an_end_is_an_outage(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """A byte now and then, or more than any study has: it must not hold a worker, or the memory, for ever."""
    monkeypatch.setattr(f"bridge.peers.sessions.{limit}", 0.1)
    ended = threading.Event()

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            self.end_headers()
            with suppress(OSError):
                while not ended.wait(0.02):
                    self.wfile.write(b" ")

        def log_message(self, *_: object) -> None:
            """Keep the output of the tests clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        archive = DicomWebArchive(DicomWebSettings(f"http://127.0.0.1:{server.server_port}"))
        with pytest.raises(Outage, match="pacs_ReadTimeout"):
            archive.study("1.2.3")
        ended.set()
        server.shutdown()


def multipart(*files: bytes, kind: str = "multipart/related") -> tuple[int, bytes, dict[str, str]]:
    """Return an answer to a retrieval."""
    body = b"".join(b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n" + file for file in files) + b"\r\n--b--\r\n"
    return 200, body, {"Content-Type": f'{kind}; type="application/dicom"; boundary=b'}


ASKED = radiograph()
SENT: dict[str, tuple[int, bytes, dict[str, str]]] = {
    "pacs_sent_another_image of another UID": multipart(radiograph(2)),
    "pacs_sent_another_image of another study": multipart(radiograph(study="1.2.3", SOPInstanceUID=f"{STUDY}.1.1")),
    "pacs_sent_another_image of another patient": multipart(radiograph(PatientID="OTHER")),
    "pacs_image_unreadable: two": multipart(ASKED, ASKED),
    "pacs_image_unreadable: none": multipart(),
    "pacs_image_unreadable: not DICOM": multipart(b"sorry"),
    "pacs_sent_another_image that is cut off in its head": multipart(ASKED[:140]),
    "pacs_image_unreadable: another type": multipart(ASKED, kind="image/jpeg"),
    "pacs_image_unreadable: not a part": (200, b"sorry", {"Content-Type": "multipart/related; boundary=b"}),
}


@pytest.mark.parametrize("case", SENT)
def test_another_answer_than_the_image_is_a_failure(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Above all the image of somebody else, from a cache or an archive that corrects only its database."""
    answer_all(monkeypatch, lambda _: SENT[case])
    with pytest.raises(StudyFailure, match=case.partition(" ")[0].rstrip(":")):
        DicomWebArchive(DicomWebSettings("http://127.0.0.1:1")).image(dcmread(BytesIO(ASKED)))


@pytest.mark.parametrize("header", [{}, {"PatientID": "Ä 7"}, {"drop": ("PatientID",)}])
def test_the_image_that_was_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch, header: dict[str, Any]) -> None:
    """Also where the archive garbles the Patient ID in its metadata, or has none."""
    answer_all(monkeypatch, lambda _: multipart(ASKED))
    archive = DicomWebArchive(DicomWebSettings("http://127.0.0.1:1"))
    asked = dcmread(BytesIO(radiograph(SpecificCharacterSet="ISO_IR 100", **header)))
    assert archive.image(asked).PixelData == dcmread(BytesIO(ASKED)).PixelData
