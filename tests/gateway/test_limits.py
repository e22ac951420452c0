"""Limits of a request, of a client, and of the upstream server."""

import contextlib
import http.client
import json
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from launcher.gateway import config
from launcher.gateway.keys import add_key
from tests.gateway.conftest import Site, open_site
from tests.gateway.recorder import Recorder

pytestmark = pytest.mark.gateway


def answer(code: int, body: bytes) -> bytes:
    """An HTTP answer of TorchServe."""
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (code, len(body)) + body


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"X": 9000 * "a"}, 431), ({f"X{i}": 7000 * "a" for i in range(6)}, 431)],
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
    head = f"POST /predictions/demo HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {site.key}\r\n"
    received = site.send(f"{head}Content-Length: 67108865\r\n\r\n".encode())
    assert received.startswith(b"HTTP/1.1 413 ")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["type"] == "TooLarge"
    assert site.recorder.seen == []


def test_body_that_does_not_end_never_reaches_the_server(site: Site) -> None:
    """TorchServe would keep it in memory, for as long as the client likes."""
    head = f"POST /predictions/demo HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {site.key}\r\n"
    site.send(f"{head}Content-Length: 1000\r\n\r\nx".encode(), answers=0)
    assert site.recorder.seen == []


@pytest.mark.parametrize(
    ("sent", "status", "kind"),
    [
        (answer(400, b'{"error": {"code": 400, "type": "InvalidOption", "message": "m"}}'), 400, "InvalidOption"),
        (answer(413, b'{"error": {"code": 413, "type": "TooLarge", "message": "m"}}'), 413, "TooLarge"),
        (answer(422, b'{"error": {"code": 422, "type": "Refused", "message": "m"}}'), 422, "Refused"),
        (answer(404, b'{"code": 404, "type": "ModelNotFoundException", "message": "DOE"}'), 404, "NotFound"),
        (answer(500, b'{"code": 500, "type": "InternalServerException", "message": "DOE"}'), 500, "InternalError"),
        (answer(507, b'{"code": 507, "type": "InternalServerException", "message": "DOE"}'), 500, "InternalError"),
        (answer(503, b'{"code": 503, "type": "ServiceUnavailableException", "message": "DOE"}'), 503, "Overloaded"),
        # TorchServe dies with the request in hand, twice.
        (b"", 500, "InternalError"),
    ],
)
def test_errors_have_one_shape(site: Site, sent: bytes, status: int, kind: str) -> None:
    """The handler's own messages pass; TorchServe's, which can quote the body, do not."""
    usual, site.recorder.answer = site.recorder.answer, sent
    try:
        found, headers, contents = site.ask("POST", "/predictions/demo", b"x")
    finally:
        site.recorder.answer = usual
    assert found == contents["error"]["code"] == status
    assert contents["error"]["type"] == kind
    assert "DOE" not in json.dumps(contents)
    assert ("retry-after" in headers) == (status == 503)
    assert len(site.recorder.seen) == (2 if found == 500 else 1)


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
