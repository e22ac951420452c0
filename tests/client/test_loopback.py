"""Clients never use a proxy for a server on this machine."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
import requests

from prelim_client.grpc_client import GrpcClient
from prelim_client.grpc_messages import SERVICE, message_classes
from prelim_client.http_client import HttpClient
from prelim_client.loopback import is_loopback

PROXIES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "grpc_proxy")
ANSWER = b'{"report": "normal"}'


@pytest.fixture(autouse=True)
def closed_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy for all addresses, at a port where nothing listens."""
    for name in PROXIES:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


class _Report(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """An HTTP server that answers every request with a report."""
    with HTTPServer(("127.0.0.1", 0), _Report) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def target() -> Iterator[str]:
    """A gRPC server that answers every request with a report."""
    messages = message_classes()
    method = grpc.unary_unary_rpc_method_handler(
        lambda request, _: messages["PredictionResponse"](prediction=ANSWER),
        request_deserializer=messages["PredictionsRequest"].FromString,
        response_serializer=messages["PredictionResponse"].SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE.strip("/"), {"Predictions": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_http_on_loopback_uses_no_proxy(url: str) -> None:
    """Every kind of HTTP request reaches the server; without our rule it fails at the proxy."""
    client = HttpClient(url, "key")

    assert client.report(b"image") == client.report(b"image", num_beams=3) == client.report_json(b"image")
    assert list(client.stream(b"image")) == [{"report": "normal"}]
    with pytest.raises(requests.exceptions.ProxyError):
        requests.post(url, data=b"image", timeout=5)


def test_grpc_on_loopback_uses_no_proxy(target: str) -> None:
    """A gRPC call reaches the server; without our rule the same channel fails at the proxy."""
    with GrpcClient(target, "key", timeout=10) as client:
        assert client.report(b"image") == {"report": "normal"}
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(f"{SERVICE}/Predictions")(b"", timeout=3)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://127.0.0.1:8080", True),
        ("https://localhost", True),
        ("http://[::1]:8080/predictions", True),
        ("127.0.0.1:7070", True),
        ("127.8.0.1:7070", True),
        ("ipv4:127.0.0.1:7070", True),
        ("dns:///localhost:7070", True),
        ("http://10.0.0.1:8080", False),
        ("http://127.0.0.1.example.org", False),
        ("http://localhost.example.org", False),
        ("reports.example.org:443", False),
    ],
)
def test_only_this_machine_is_loopback(address: str, expected: bool) -> None:
    """Names that only begin like loopback are other hosts, for which the user's proxy may be needed."""
    assert is_loopback(address) is expected


def test_client_needs_neither_torch_nor_the_server() -> None:
    """The client needs only requests, grpcio and protobuf."""
    code = (
        "import sys, prelim_client.command_line\n"
        "print({'torch', 'numpy', 'ts', 'prelim', 'handlers', 'launcher'} & set(sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "set()\n"
