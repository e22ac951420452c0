"""Nothing of a request is written to a log or to the console, however the frontend fails on it."""

import contextlib
import json
import re
import socket
from collections.abc import Callable
from datetime import datetime

import grpc
import pytest
import requests

from launcher.local_server import LocalServer
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient
from tests.dicom_files import make_dicom
from tests.server.conftest import MODEL
from tests.tiny_model import png

pytestmark = pytest.mark.server

NAME, NUMBER, BIRTH_DATE = "Plantedname", "PLANTED4711", "19010203"
IDENTITIES = (NAME, NUMBER, BIRTH_DATE)
RADIOGRAPH = make_dicom(PatientName=f"{NAME}^Erika", PatientID=NUMBER, PatientBirthDate=BIRTH_DATE)
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
PREDICTIONS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"


def part(parameters: str, headers: str = "") -> bytes:
    """A form with one part: the parameters of its Content-Disposition, and its other headers."""
    header = f"Content-Disposition: form-data; {parameters}\r\n{headers}"
    return b"--x\r\n" + header.encode() + b"\r\n\r\n" + RADIOGRAPH + b"\r\n--x--\r\n"


BODIES = {
    "a DICOM file as a form": (RADIOGRAPH, FORM),
    "a form with a bad escape": (f"name=%zz{NAME}&a=b".encode(), FORM),
    "a form field that is a DICOM file": (b"image=" + RADIOGRAPH, FORM),
    "a DICOM file as multipart": (RADIOGRAPH, "multipart/form-data"),
    "a DICOM file as multipart with a boundary": (RADIOGRAPH, MULTIPART),
    "a part without a name": (part(""), MULTIPART),
    "a part with an unknown name": (part(f'name="{NAME}"; filename="{NUMBER}.dcm"'), MULTIPART),
    "a part with a wrong charset": (part('name="image"', f"Content-Type: text/plain; charset={NAME}"), MULTIPART),
    "an encoded file name": (part(f"name=\"image\"; filename*={NAME}''{NUMBER}%zz.dcm"), MULTIPART),
    "an unknown encoding": (part('name="image"', f"Content-Transfer-Encoding: {NAME}"), MULTIPART),
    "a nested form": (part('name="image"', f"Content-Type: multipart/mixed; boundary={NAME}"), MULTIPART),
    "a DICOM file as JSON": (RADIOGRAPH, "application/json"),
    "JSON with an unknown field": (f'{{"{NUMBER}": "{NAME}"}}'.encode(), "application/json"),
    "half of a DICOM file": (RADIOGRAPH[: RADIOGRAPH.index(BIRTH_DATE.encode()) + 12], "application/dicom"),
    "a DICOM file as text": (RADIOGRAPH, f"text/plain; charset={NAME}"),
    "a content type without meaning": (RADIOGRAPH, f"{NAME}/{NUMBER};;;"),
}

PATHS = [
    f"/predictions/{MODEL}?name={NAME}",
    f'/predictions/{MODEL}?a="{NAME}&b={NUMBER}',
    f"/predictions/{MODEL}?name=%zz{NAME}",
    f"/predictions/{MODEL}/1.0/{NAME}",
    f"/predictions/{MODEL}/{NAME}.dcm",
    f"/predictions/{NAME}.dcm",
    f"/explanations/{MODEL}?name={NAME}",
    f"/invocations?{NAME}={NUMBER}",
    f"/{NAME}.dcm",
    f"/v2/models/{NAME}/infer",
    f"/wfpredict/{NAME}",
]

RAW = {
    "a DICOM file instead of a request": RADIOGRAPH,
    "a space in the query": f"POST /predictions/{MODEL}?a={NAME} {NUMBER} HTTP/1.1\r\n\r\n".encode(),
    "a header without a colon": f"POST /predictions/{MODEL} HTTP/1.1\r\n{NAME}\r\n\r\n".encode(),
    "a header that is too long": b"GET / HTTP/1.1\r\nX: " + NAME.encode() * 3000 + b"\r\n\r\n",
    "a request line that is too long": b"GET /predictions?" + NAME.encode() * 3000 + b" HTTP/1.1\r\n\r\n",
    "a length in words": f"POST /predictions/{MODEL} HTTP/1.1\r\nContent-Length: {NAME}\r\n\r\n".encode(),
    "a chunk of no length": f"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{NAME}\r\n".encode(),
    "a user in the URI": f"POST http://{NAME}:{NUMBER}@{NAME}:99999/predictions HTTP/1.1\r\n\r\n".encode(),
    "another protocol": f"POST /predictions/{MODEL} {NAME}/1.1\r\nContent-Length: 0\r\n\r\n".encode(),
}


def logged(server: LocalServer) -> str:
    """All that the server has written: to its console and to every file of its logs."""
    files = [server.console, *(server.folder / "logs").rglob("*")]
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in files if path.is_file())


def assert_json(server: LocalServer) -> None:
    """Every line of the logs is an object with time, program and event; the console has lines of Java itself too."""
    files = [*(server.folder / "logs").glob("*.log")]
    assert {file.name for file in files} >= {"console.log", "server.log", "access.log"}
    assert (server.folder / "logs").stat().st_mode & 0o077 == 0
    for file in files:
        assert file.stat().st_mode & 0o077 == 0 or file == server.console
        lines = file.read_text(encoding="utf-8").splitlines()
        if file == server.console:
            lines = [line for line in lines if line.startswith("{")]
        for line in lines:
            fields = json.loads(line)
            assert {"time", "program", "event"} <= fields.keys()
            assert datetime.fromisoformat(fields["time"]).tzinfo is not None


def assert_private(server: LocalServer, done: Callable[[str], bool]) -> None:
    """Wait until the log says that the requests are over, then look for the identities, also as hexadecimal digits."""
    for _ in range(100):
        if done(logged(server)):
            break
        requests.get(f"{server.url}/ping", timeout=10)
    log = logged(server)
    assert done(log)
    lines = [line for line in log.splitlines() if any(re.search(name, line, re.IGNORECASE) for name in IDENTITIES)]
    lines += [line for name in IDENTITIES for line in log.splitlines() if name.encode().hex()[:12] in line.lower()]
    assert not lines
    assert_json(server)


def test_bodies_are_not_logged(server: LocalServer) -> None:
    """No body that the frontend or the handler fails on is quoted, whatever its content type; the failure is logged."""
    headers = {"Authorization": f"Bearer {server.key()}"}

    codes = {
        name: requests.post(
            f"{server.url}/predictions/{MODEL}", data=body, headers=headers | {"Content-Type": kind}, timeout=60
        ).status_code
        for name, (body, kind) in BODIES.items()
    }

    assert codes["a DICOM file as a form"] == 500, "the form decoder fails"
    assert codes["JSON with an unknown field"] == 400
    assert_private(server, lambda log: "ErrorDataDecoderException" in log)


def test_paths_and_headers_are_not_logged(server: LocalServer) -> None:
    """Query strings, unknown parts of a path, values of headers and unknown methods are not written."""
    headers = {"Authorization": f"Bearer {server.key()}", "X-Patient": NAME, "X-Request-Start": NUMBER}

    for path in PATHS:
        requests.put(server.url + path, data=png(), headers=headers, timeout=60)
    requests.request(NUMBER, f"{server.url}/predictions/{MODEL}", data=png(), headers=headers, timeout=60)
    requests.post(f"{server.url}/predictions/{NAME}", headers={"Authorization": f"Bearer {NUMBER}"}, timeout=60)
    server.manage("GET", f"/models/{NAME}?name={NUMBER}")
    server.manage("POST", f"/models?url={NAME}.mar")

    assert_private(server, lambda log: f'"route":"PUT /predictions/{MODEL}"' in log)


def test_malformed_http_is_not_logged(server: LocalServer) -> None:
    """Bytes that are not an HTTP request are not quoted."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    answers = {}
    for name, request in RAW.items():
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(request)
            # The server may have closed it already.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            answers[name] = connection.recv(100)

    assert answers["a space in the query"].startswith(b"HTTP/1.1 400")
    assert_private(server, lambda log: '"code":400,' in log)


def test_malformed_grpc_is_not_logged(server: LocalServer, grpc_client: GrpcClient, http: HttpClient) -> None:
    """Messages, metadata and bytes that are not a gRPC call are not quoted; that one failed is on the console."""
    metadata = (("authorization", f"Bearer {server.key()}"), ("x-patient", NAME))
    codes = []
    with grpc.insecure_channel(server.grpc_target) as channel:
        calls = [
            (PREDICTIONS, RADIOGRAPH, metadata),
            (PREDICTIONS, b"\n\x0d" + NAME.encode() + b"\xff\xfe", metadata),
            (PREDICTIONS, b"\n\x0b" + NAME.encode(), metadata),
            (PREDICTIONS, b"", (("authorization", f"Bearer {NUMBER}"),)),
            (f"/{NAME}/{NUMBER}", b"", metadata),
        ]
        for method, message, given in calls:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method)(message, metadata=given, timeout=30)
            codes.append(caught.value.code())
    host, _, port = server.grpc_target.partition(":")
    for request in (f"POST /{NAME} HTTP/1.1\r\n\r\n".encode(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + RADIOGRAPH):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(request)
            connection.recv(100)

    assert codes[0] == grpc.StatusCode.UNKNOWN
    assert_private(server, lambda log: "io.grpc." in log)
    assert grpc_client.report(png())["report"] == http.report(png())["report"]
