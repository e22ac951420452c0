"""POST /drafts/FORMAT: a document of the draft for whoever has its image, and nothing of it left behind."""

import contextlib
import dataclasses
import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from pydicom import dcmread

from bridge.configuration import settings as config
from bridge.configuration.server import OPTIONS
from bridge.dicom.identity import SiteKey
from bridge.endpoints.draft_route import listen_for_drafts
from prelim.generation.options import GenerationOptions
from tests.bridge.fake_server import FakeServer, refusal
from tests.bridge.planted import MARKERS, plant
from tests.bridge.studies import radiograph
from tests.dicom_files import dataset, encode, phantom

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"


@contextlib.contextmanager
def listening(
    folder: Path, server: FakeServer, *, url: str | None = None, enabled: bool = True, **drafts: Any
) -> Iterator[str]:
    """Yield the address of the route; `url` is that of another server of reports."""
    given = {
        "state": "state",
        "enabled": enabled,
        "server": {"url": url or server.url, "key_file": str(server.key_file)},
        "drafts": {"port": 0, **drafts},
    }
    settings = config.Settings.read(given, "test", folder)
    with listen_for_drafts(settings, SiteKey(b"k" * 32)) as port:
        yield f"http://127.0.0.1:{port}/drafts"


@pytest.fixture
def url(tmp_path: Path, server: FakeServer) -> Iterator[str]:
    """The address of the route."""
    with listening(tmp_path, server) as address:
        yield address


def ask(url: str, image: bytes | None, **parts: Any) -> requests.Response:
    """Send a form; parts other than text are sent as JSON."""
    files = {} if image is None else {"image": ("PLANTFILE^NAME.dcm", image)}
    texts = {name: (None, part if isinstance(part, str) else json.dumps(part)) for name, part in parts.items()}
    return requests.post(url, files=files | texts, timeout=20)


@pytest.mark.parametrize(
    ("kind", "sop_class"), [("sr", "Basic Text SR"), ("tid1500", "Comprehensive 3D SR"), ("pdf", "Encapsulated PDF")]
)
def test_a_report_becomes_a_dicom_document(url: str, server: FakeServer, kind: str, sop_class: str) -> None:
    """The document has the text of the report and the identity of the image; the server is not asked."""
    _, report = server.report(radiograph())
    report |= {"sections": {"findings": "As shown.", "impression": None}, "images": ["ignored"]}
    answer = ask(f"{url}/{kind}", radiograph(), report=report, options={"num_beams": 4})

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/dicom")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="draft-{kind}.dcm"'
    document = dcmread(BytesIO(answer.content))
    assert document.SOPClassUID.name.startswith(sop_class)
    assert (str(document.PatientName), document.VerificationFlag) == ("MUELLER^ANNA", "UNVERIFIED")
    if kind != "pdf":
        assert "As shown." in document.to_json()
        assert "num_beams=4" in document.to_json()
    assert server.received == []


def test_the_id_of_a_request_is_kept(url: str, server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """In the log, at the server of reports and in an error; one that is not well formed is replaced."""
    for given in ("case-7", "DOE^JANE"):
        headers = {"X-Request-Id": given}
        requests.post(f"{url}/fhir", files={"image": ("i.dcm", radiograph())}, headers=headers, timeout=20)
        refused = requests.post(f"{url}/fhir", files={"other": ("i.dcm", b"x")}, headers=headers, timeout=20)
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        ids = [line["request"] for line in lines if line["event"].startswith("document_")]
        assert ids == [server.ids[-1], refused.json()["error"]["request_id"]]
        assert all((name == given) == (given == "case-7") for name in ids)


def test_the_same_request_gives_the_same_document_and_another_text_another(url: str, server: FakeServer) -> None:
    """SOP Instance UIDs follow from image, options and text."""
    _, report = server.report(radiograph())
    bodies = [report, report, report | {"sections": {"findings": "Other.", "impression": None}}]
    uids = [dcmread(BytesIO(ask(f"{url}/sr", radiograph(), report=body).content)).SOPInstanceUID for body in bodies]
    assert uids[0] == uids[1] != uids[2]


def test_without_a_report_the_server_gets_only_the_picture(url: str, server: FakeServer) -> None:
    """The image alone: the header is cut to the allow-list; options and model are passed on."""
    planted = plant(dataset(phantom()))
    answer = ask(f"{url}/fhir", encode(planted), options={"num_beams": 2})

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/fhir+json")
    report = next(entry["resource"] for entry in answer.json()["entry"] if "conclusion" in entry["resource"])
    assert report["status"] == "preliminary"
    assert "Heart size normal" in report["conclusion"]
    assert b'name="num_beams"' in server.received[0]
    assert [marker for marker in MARKERS if marker.encode() in server.received[0]] == []


def test_fhir_takes_an_image_without_a_header(url: str, server: FakeServer) -> None:
    """A PNG has neither patient nor study; DICOM documents cannot refer to it, and the server is not asked for them."""
    _, report = server.report(radiograph())
    bundle = ask(f"{url}/fhir", PNG, report=report).json()
    resources = {entry["resource"]["resourceType"]: entry["resource"] for entry in bundle["entry"]}
    refused = ask(f"{url}/sr", PNG)

    assert {"subject", "imagingStudy"}.isdisjoint(resources["DiagnosticReport"])
    assert "entity" not in resources["Provenance"]
    assert (refused.status_code, refused.json()["error"]["type"]) == (415, "NotDicom")
    assert server.received == []


GOOD = {
    "report": "Normal.",
    "sections": {"findings": None, "impression": None},
    "status": "UNVERIFIED",
    "avg_logprob": -0.1,
    "model": {"name": "demo", "version": "1", "architecture": "a", "sha256": "a" * 64},
    "warnings": [],
}
WRONG_REPORTS: dict[str, Any] = {
    "a JSON object": "[]",
    "report.status": GOOD | {"status": "FINAL"},
    "report.model must": GOOD | {"model": {"name": "demo"}},
    "strings that are not blank": GOOD | {"model": GOOD["model"] | {"name": " \x07"}},
    "halves of surrogate pairs": GOOD | {"model": GOOD["model"] | {"name": "PLANT\ud800"}},
    "a number": GOOD | {"avg_logprob": 10**400},
    "report.model.sha256": GOOD | {"model": GOOD["model"] | {"sha256": "PLANT"}},
    "report.report": GOOD | {"report": ["PLANT"]},
    "report.sections": GOOD | {"sections": {"findings": 1}},
    "report.warnings": GOOD | {"warnings": "PLANT"},
    "report.avg_logprob": GOOD | {"avg_logprob": "PLANT"},
    "report.sentences": GOOD | {"sentences": [{"text": "PLANT", "confidence": 1.5, "confirm": True}]},
    "confidence (0 to 1)": GOOD | {"sentences": [{"text": "PLANT", "confidence": True, "confirm": True}]},
    "report.regions": GOOD | {"regions": [{"text": "PLANT", "image": 1, "box": [1, 2, 3]}]},
    "image (from 1)": GOOD | {"regions": [{"text": "PLANT", "image": 0, "box": None}]},
    "box (four numbers": GOOD | {"regions": [{"text": "PLANT", "image": 1, "box": [1, 2, 3, True]}]},
    "report.model.use": GOOD | {"model": GOOD["model"] | {"use": " "}},
    "at most 2000 objects": GOOD | {"sentences": {"text": "PLANT"}},
}


@pytest.mark.parametrize("message", WRONG_REPORTS)
def test_a_report_that_the_server_did_not_write_is_refused(url: str, message: str) -> None:
    """The field is named, its value is not repeated."""
    answer = ask(f"{url}/sr", radiograph(), report=WRONG_REPORTS[message])

    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]
    assert "PLANT" not in answer.text


def test_other_requests_are_errors_of_the_usual_shape(
    url: str, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown paths and parts, no image, damaged DICOM, no form, a refusal and an outage of the server."""

    def server_says(answer: tuple[int, Any]) -> requests.Response:
        server.answer = lambda _: answer
        return ask(f"{url}/sr", radiograph())

    damaged = b"\0" * 128 + b"DICM" + b"\xff" * 200
    asked = {
        404: [ask(f"{url}/PLANT", radiograph()), ask(f"{url}/hl7", radiograph()), ask(f"{url}/sr?a=PLANT", b"")],
        400: [
            ask(f"{url}/sr", None, report=GOOD),
            ask(f"{url}/sr", radiograph(), PLANT="x"),
            ask(f"{url}/sr", radiograph(), model="PLANT/../x"),
            ask(f"{url}/sr", radiograph(), options="[]"),
            *(ask(f"{url}/sr", radiograph(), options={name: "PLANT"}) for name in ("image", "self", "image_2")),
            requests.post(f"{url}/sr", data=b"PLANT", timeout=20),
            requests.post(f"{url}/sr", files=[("image", PNG), ("image", PNG)], timeout=20),
            requests.post(
                f"{url}/sr",
                data=b"--x\r\nPLANT",
                headers={"Content-Type": "multipart/form-data; boundary=x"},
                timeout=20,
            ),
        ],
        413: [
            ask(f"{url}/sr", radiograph(), report=GOOD | {"report": "x" * 2**20}),
            ask(f"{url}/pdf", radiograph(), report=GOOD | {"report": "a\n" * 10_001}),
        ],
        422: [
            ask(f"{url}/sr", radiograph(SOPInstanceUID=["1.2.3", "1.2.4"]), report=GOOD),
            ask(f"{url}/fhir", radiograph(SOPClassUID="1.2.junk"), report=GOOD),
            ask(f"{url}/sr", radiograph(SOPClassUID="1.2.3"), report=GOOD),
            ask(f"{url}/sr", radiograph(study="1.2.03"), report=GOOD),
            ask(f"{url}/sr", radiograph(drop=("StudyInstanceUID",)), report=GOOD),
            ask(f"{url}/sr", damaged),
            server_says(refusal(422, "Refused", "body_part: send a chest")),
        ],
        503: [server_says(refusal(503, "Overloaded", "busy")), server_says(refusal(500, "InternalError", "PLANT"))],
    }
    for code, answers in asked.items():
        for answer in answers:
            assert (answer.status_code, answer.json()["error"]["code"]) == (code, code)
            assert "PLANT" not in answer.text
    assert "body_part" in asked[422][-1].text
    assert asked[503][0].headers["Retry-After"] == "5"
    assert "PLANT" not in capsys.readouterr().err


def test_options_are_those_of_the_server() -> None:
    """Others are refused, and these only by the server."""
    assert {option.name for option in dataclasses.fields(GenerationOptions)} == OPTIONS


def test_the_token_is_required_where_one_is_configured(tmp_path: Path, server: FakeServer) -> None:
    """The gateway sends it; others on the machine are refused."""
    (tmp_path / "token").write_text("secret\n")
    with listening(tmp_path, server, token_file="token") as address:  # noqa: S106 - a file name
        assert ask(f"{address}/sr", radiograph()).status_code == 401
        files = {"image": radiograph()}
        headers = {"Authorization": "Bearer secret"}
        assert requests.post(f"{address}/sr", files=files, headers=headers, timeout=20).status_code == 200


def test_the_off_switch_stops_it_too(tmp_path: Path, server: FakeServer) -> None:
    """`enabled: false`: the server is not asked, and the client is told why."""
    with listening(tmp_path, server, enabled=False) as address:
        answer = ask(f"{address}/sr", radiograph())
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "Disabled")
    assert server.received == []


def test_a_request_over_the_limits_is_refused(tmp_path: Path, server: FakeServer) -> None:
    """A body over max_body_mb, and more than max_requests at a time."""
    entered, leave = threading.Event(), threading.Event()

    def wait(image: bytes) -> tuple[int, Any]:
        entered.set()
        leave.wait(20)
        return server.report(image)

    server.answer = wait
    with listening(tmp_path, server, max_requests=1, max_body_mb=1) as address:
        assert ask(f"{address}/sr", b"x" * (2**20 + 1)).status_code == 413
        first = threading.Thread(target=ask, args=(f"{address}/sr", radiograph()))
        first.start()
        assert entered.wait(20)
        assert ask(f"{address}/sr", radiograph()).status_code == 503
        leave.set()
        first.join()


def test_no_part_is_written_to_a_file(url: str, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large parts stay in memory: the parser's temporary files would hold the image."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file")

    for name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, fail)
    import numpy as np

    large = encode(dataset(np.zeros((2000, 1000), np.uint16), StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4"))
    assert ask(f"{url}/sr", large, report=GOOD).status_code == 200


def test_the_log_has_neither_names_nor_texts(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Format, bytes and seconds: nothing of the header, the file's name or the report."""
    for kind in ("sr", "pdf", "tid1500", "fhir"):
        assert ask(f"{url}/{kind}", encode(plant(dataset(phantom()))), report=GOOD | {"report": "PLANTTEXT"}).ok
    written = "".join(capsys.readouterr())
    assert written.count("document_written") == 4
    assert [marker for marker in (*MARKERS, "PLANTFILE", "PLANTTEXT") if marker in written] == []


def test_a_client_that_leaves_ends_the_work_on_its_draft(
    tmp_path: Path, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server sees its request end after the next sign of life, and the place is free for another client.

    An answer that takes long has white space at its beginning, as TorchServe's does (docs/gateway.md).
    """
    asked, ended = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response_only(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            asked.set()
            with contextlib.suppress(OSError):
                while not ended.wait(0.02):
                    self.wfile.write(b"1\r\n \r\n")
            ended.set()

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as slow:
        threading.Thread(target=slow.serve_forever, args=(0.05,), daemon=True).start()
        with listening(tmp_path, server, url=f"http://127.0.0.1:{slow.server_port}", max_requests=1) as address:
            prepared = requests.Request("POST", f"{address}/sr", files={"image": radiograph()}).prepare()
            head = "".join(f"{name}: {value}\r\n" for name, value in prepared.headers.items())
            assert isinstance(prepared.body, bytes)
            with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port)) as client:
                client.sendall(f"POST /drafts/sr HTTP/1.1\r\n{head}\r\n".encode() + prepared.body)
                assert asked.wait(20)
                assert not ended.wait(0.1)
            assert ended.wait(20)
            _, report = server.report(radiograph())
            # The place is free when the line is written.
            logged = ""
            while "document_abandoned" not in logged:
                logged += capsys.readouterr().err
            assert ask(f"{address}/sr", radiograph(), report=report).status_code == 200
        slow.shutdown()
