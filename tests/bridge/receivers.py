"""Receivers of drafts besides the PACS: a RIS that speaks MLLP, and a FHIR server."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import hl7
import pytest
import requests
from urllib3 import HTTPResponse

from bridge.configuration.settings import Hl7Settings

DETOURS = [(200, {"Content-Type": "text/html; charset=utf-8"}), (302, {"Location": "/login"}), (307, {"Location": "/"})]
"""Status and header of a login page's answers to a POST."""


def answer_all(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], tuple[int, bytes, dict[str, str]]]) -> None:
    """Answer all HTTP requests of this process: URL -> status, body, header."""

    def send(_: object, request: requests.PreparedRequest, **__: Any) -> requests.Response:
        response = requests.Response()
        assert request.url is not None
        response.status_code, body, header = answer(request.url)
        response.raw = HTTPResponse(BytesIO(body), preload_content=False)
        response.url, response.request = request.url, request
        response.headers.update(header)
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)


@contextmanager
def ris(code: str = "AA", port: int = 0) -> Iterator[tuple[Hl7Settings, list[str]]]:
    """Yield the settings of a RIS that answers with this code, and what it got."""
    got: list[str] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                data = b""
                while not data.endswith(b"\x1c\r"):
                    data += connection.recv(65536)
                got.append(data[1:-2].decode())
                control = hl7.parse(got[-1])["MSH.F10"]
                answer = f"MSH|^~\\&|RIS|||||| ACK|1|P|2.5.1\rMSA|{code}|{control}\r"
                connection.sendall(b"\x0b" + answer.encode() + b"\x1c\r")

    with socket.create_server(("127.0.0.1", port)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Hl7Settings("127.0.0.1", server.getsockname()[1], timeout_s=5.0), got
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@contextmanager
def fhir_server(port: int = 0, status: int = 200) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the address of a FHIR server that answers with this status, and what it got."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response_only(status)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()
