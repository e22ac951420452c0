"""Limits of a request, of a client, and of the upstream server."""

import contextlib
import http.client
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.gateway import config
from launcher.gateway.keys import add_key
from launcher.gateway.nginx import requests_in_hand
from tests.gateway.conftest import Site, eventually, open_site
from tests.gateway.recorder import Recorder

pytestmark = pytest.mark.gateway


def answer(code: int, body: bytes) -> bytes:
    """An HTTP answer of TorchServe."""
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (code, len(body)) + body


def of_handler(code: int, kind: str, message: str = "m", **more: Any) -> bytes:
    """An error of the model's handler, which has it in a header too."""
    error = json.dumps({"error": {"code": code, "type": kind, "message": message, **more}}).encode()
    return answer(code, error).replace(b"\r\n\r\n", b"\r\nX-Prelim-Error: " + error + b"\r\n\r\n", 1)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X": 9000 * "a"}, 431),
        ({f"X{i}": 7000 * "a" for i in range(6)}, 431),
        # The one header of a client that is passed on to the server.
        ({"Content_Type": f"multipart/form-data; boundary={'a' * 8000}"}, 431),
        ({"Content_Type": f"multipart/form-data; boundary={'a' * 1000}"}, 431),
    ],
)
def test_large_headers_are_refused(site: Site, headers: dict[str, str], status: int) -> None:
    """In one line or in many; the server never sees them."""
    found, _, contents = site.ask("POST", "/predictions/demo", b"x", **headers)
    assert found == contents["error"]["code"] == status
    assert site.recorder.seen == []


def test_long_path_is_refused(site: Site) -> None:
    """With 414."""
    status, _, contents = site.ask("POST", "/predictions/" + 9000 * "a", b"x")
    assert (status, contents["error"]["code"]) == (414, 414)
    assert site.recorder.seen == []


def test_large_body_is_refused_before_it_is_sent(site: Site) -> None:
    """By its length; TorchServe's 413 would have no body."""
    status, _, contents = site.ask("POST", "/predictions/demo", b"x", Content_Length="67108865")
    assert (status, contents["error"]["type"]) == (413, "TooLarge")
    assert site.recorder.seen == []


def test_body_that_does_not_end_never_reaches_the_server(site: Site) -> None:
    """TorchServe would keep it in memory, for as long as the client likes."""
    head = f"POST /predictions/demo HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {site.key}\r\n"
    site.send(f"{head}Content-Length: 1000\r\n\r\nx".encode(), answers=0)
    assert site.recorder.seen == []


def torchserves(code: int, kind: str) -> bytes:
    """An error of TorchServe itself, whose message can quote the request."""
    return answer(code, json.dumps({"code": code, "type": kind, "message": "DOE"}, indent=2).encode())


TORCHSERVES = [
    (torchserves(400, "InvalidKeyException"), 503, "Overloaded"),
    (torchserves(401, "Unauthorized"), 503, "Overloaded"),
    (torchserves(403, "Forbidden"), 503, "Overloaded"),
    (torchserves(404, "ModelNotFoundException"), 404, "NotFound"),
    (torchserves(404, "ModelVersionNotFoundException"), 404, "NotFound"),
    (torchserves(405, "MethodNotAllowedException"), 404, "NotFound"),
    (answer(413, b""), 413, "TooLarge"),
    (answer(417, b""), 500, "InternalError"),
    (torchserves(500, "InternalServerException"), 500, "InternalError"),
    (torchserves(503, "ServiceUnavailableException"), 503, "Overloaded"),
    (torchserves(504, "Timeout"), 504, "Timeout"),
    (torchserves(507, "InternalServerException"), 500, "InternalError"),
    # TorchServe dies with the request in hand, twice.
    (b"", 500, "InternalError"),
]
"""What TorchServe answers -> status and type of the gateway's answer (docs/gateway.md)."""


@pytest.fixture
def ask(site: Site) -> Iterator[Callable[..., tuple[int, dict[str, str], Any]]]:
    """Asks with an answer of the server."""
    usual = site.recorder.answer

    def ask(sent: bytes, path: str, **headers: str) -> tuple[int, dict[str, str], Any]:
        site.recorder.answer = sent
        return site.ask("POST", path, b"x", X_Request_Id="mine-1", **headers)

    yield ask
    site.recorder.answer = usual


@pytest.mark.parametrize(("sent", "status", "kind"), TORCHSERVES)
def test_torchserves_errors_become_ours(ask: Any, site: Site, sent: bytes, status: int, kind: str) -> None:
    """In our shape with the request's id, in OpenAI's under /v1; the message, which can quote the body, is gone."""
    found, headers, contents = ask(sent, "/predictions/demo")
    error = contents["error"]
    assert (found, error["code"], error["type"], error["request_id"]) == (status, status, kind, "mine-1")
    assert "DOE" not in json.dumps(contents)
    assert ("retry-after" in headers) == (status == 503)
    assert len(site.recorder.seen) == (2 if sent == b"" or sent[9:12] in (b"500", b"507") else 1)
    found, _, contents = ask(sent, "/v1/chat/completions")
    error = contents["error"]
    assert (found, error["code"], error["param"], error["request_id"]) == (status, kind, None, "mine-1")
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")


OF_FORMS = [
    torchserves(500, "ErrorDataDecoderException"),
    torchserves(500, "ArrayIndexOutOfBoundsException"),
    torchserves(403, "IllegalCharsetNameException"),
]
"""What TorchServe answers to a form with a part that it cannot read."""


@pytest.mark.parametrize("sent", OF_FORMS)
def test_form_that_torchserve_cannot_read_is_a_fault_of_the_client(site: Site, ask: Any, sent: bytes) -> None:
    """It is not sent again, and a gateway in front of this one passes the error on."""
    for path, kind in (("/predictions/demo", "type"), ("/v1/chat/completions", "code")):
        site.recorder.seen.clear()
        status, headers, contents = ask(sent, path, Content_Type="multipart/form-data; boundary=x")
        assert (status, contents["error"][kind], contents["error"]["request_id"]) == (400, "UnreadableForm", "mine-1")
        assert json.loads(headers["x-prelim-error"]) == contents
        assert "DOE" not in json.dumps(contents)
        assert len(site.recorder.seen) == 1


def test_death_with_a_form_is_a_death(site: Site, ask: Any) -> None:
    """TorchServe's answer differs from that to a form by its length alone."""
    died = {"code": 500, "type": "InternalServerException", "message": "Worker died."}
    sent = answer(500, f"{json.dumps(died, indent=2)}\n".encode())
    status, headers, contents = ask(sent, "/predictions/demo", Content_Type="multipart/form-data; boundary=x")
    assert (status, contents["error"]["type"], headers.get("x-prelim-error")) == (500, "InternalError", None)
    assert len(site.recorder.seen) == 2


@pytest.mark.parametrize("code", [400, 404, 413, 415, 422, 500, 503, 504])
@pytest.mark.parametrize("path", ["/predictions/demo", "/v1/chat/completions"])
def test_errors_of_the_handler_pass(ask: Any, code: int, path: str) -> None:
    """With status, type and message, also where TorchServe has an error of the same status."""
    found, headers, contents = ask(of_handler(code, "Kind", "field x is < 3: \u00fc", request_id="mine-1"), path)
    assert (found, contents["error"]["type"], headers["content-type"]) == (code, "Kind", "application/json")
    assert contents["error"]["message"] == "field x is < 3: \u00fc"
    assert headers["x-request-id"] == "mine-1"
    assert ("retry-after" in headers) == (code == 503)


def test_long_errors_of_the_handler_pass(ask: Any) -> None:
    """A list of known fields is far longer than the buffer that nginx has for headers by default."""
    message = 20_000 * "a"
    assert ask(of_handler(400, "Kind", message), "/predictions/demo")[2]["error"]["message"] == message


def test_server_that_is_down_is_overload(tmp_path: Path) -> None:
    """503 with Retry-After."""
    recorder = Recorder()
    recorder.close()
    site = open_site(tmp_path, recorder)
    with site.nginx:
        status, headers, contents = site.ask("POST", "/predictions/demo", b"x")
        assert (status, headers["retry-after"], contents["error"]["code"]) == (503, "5", 503)


def test_only_the_fast_client_is_slowed_down(tmp_path: Path) -> None:
    """429 with Retry-After for it, 200 for another client; requests without a key count for neither."""
    recorder = Recorder()
    keys = tmp_path / "keys"
    other = add_key(keys, "other")
    site = open_site(tmp_path, recorder, requests_per_second=1, burst=2)
    with site.nginx:
        for _ in range(5):
            assert site.ask("POST", "/predictions/demo", b"x", Authorization="Bearer tests.wrong")[0] == 401
        answers = [site.ask("POST", "/predictions/demo", b"x") for _ in range(6)]
        codes = [status for status, _, _ in answers]
        assert codes[:3] == [200, 200, 200]
        assert 429 in codes[3:]
        _, headers, contents = answers[codes.index(429)]
        assert (headers["retry-after"], contents["error"]["type"]) == ("1", "TooManyRequests")
        assert site.ask("POST", "/predictions/demo", b"x", Authorization=f"Bearer {other}")[0] == 200
    recorder.close()


def test_open_requests_of_a_client_are_limited(tmp_path: Path) -> None:
    """Further ones get 429 while so many wait."""
    recorder = Recorder()
    site = open_site(tmp_path, recorder, open_requests=1)
    head = f"POST /predictions/demo HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {site.key}\r\n"
    with site.nginx, socket.create_connection(site.address, timeout=20) as waiting:
        waiting.sendall(f"{head}Expect: 100-continue\r\nContent-Length: 10\r\n\r\n".encode())
        # nginx asks for the body once the request counts.
        assert waiting.recv(100).startswith(b"HTTP/1.1 100 ")
        assert site.ask("POST", "/predictions/demo", b"x")[0] == 429
        waiting.sendall(10 * b"x")
        assert waiting.recv(100).startswith(b"HTTP/1.1 200 ")
    recorder.close()


def test_requests_of_all_clients_are_limited(tmp_path: Path) -> None:
    """TorchServe has at most so many at a time: another client gets 503 meanwhile, and is served afterwards."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(20)
    keys = tmp_path / "keys"
    other = f"Bearer {add_key(keys, 'other')}"
    recorder: Any = Recorder()
    recorder.close()
    recorder.port = listening.getsockname()[1]
    site = open_site(tmp_path, recorder, server_requests=1)
    with site.nginx, listening:
        first = http.client.HTTPConnection(*site.address, timeout=20)
        first.request("POST", "/predictions/demo", b"x", {"Authorization": f"Bearer {site.key}"})
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            status, headers, contents = site.ask("POST", "/predictions/demo", b"x", Authorization=other)
            assert (status, headers["retry-after"], contents["error"]["type"]) == (503, "5", "Overloaded")
            connection.sendall(answer(200, b"{}"))
        assert first.getresponse().status == 200
        first.close()
        # The place is free a moment after the answer.
        assert eventually(lambda: requests_in_hand(site.folder / "nginx") == 0)
        second = http.client.HTTPConnection(*site.address, timeout=20)
        second.request("POST", "/predictions/demo", b"x", {"Authorization": other})
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer(200, b"{}"))
        assert second.getresponse().status == 200
        second.close()


def test_stalled_body_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while without a byte the connection is closed, and the client may open another request."""
    folder = tmp_path / "nginx files"
    shutil.copytree(config.NGINX, folder)
    template = folder / "nginx.conf.template"
    text = template.read_text(encoding="utf-8")
    assert "client_body_timeout 30s;" in text
    template.write_text(text.replace("client_body_timeout 30s;", "client_body_timeout 1s;"), encoding="utf-8")
    monkeypatch.setattr(config, "NGINX", folder)
    recorder = Recorder()
    site = open_site(tmp_path, recorder, open_requests=1)
    head = f"POST /predictions/demo HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {site.key}\r\n"
    with site.nginx, socket.create_connection(site.address, timeout=20) as stalled:
        stalled.sendall(f"{head}Content-Length: 10\r\n\r\nx".encode())
        with contextlib.suppress(ConnectionResetError):
            assert b"HTTP/1.1 2" not in stalled.recv(65536)
        assert recorder.seen == []
        assert site.ask("POST", "/predictions/demo", b"x")[0] == 200
    recorder.close()


def test_answer_passes_as_it_is_generated(tmp_path: Path) -> None:
    """The first piece of a stream arrives while the server still writes the second."""
    listening = socket.create_server(("127.0.0.1", 0))
    go_on = threading.Event()

    class Port:
        port = listening.getsockname()[1]

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n")
            go_on.wait(20)
            connection.sendall(b"7\r\nsecond\n\r\n0\r\n\r\n")

    threading.Thread(target=serve, daemon=True).start()
    recorder: Any = Port()
    site = open_site(tmp_path, recorder)
    with site.nginx, listening:
        client = http.client.HTTPConnection(*site.address, timeout=20)
        client.request("POST", "/predictions/demo", b"x", {"Authorization": f"Bearer {site.key}"})
        response = client.getresponse()
        assert response.readline() == b"first\n"
        go_on.set()
        assert response.read() == b"second\n"
        client.close()
