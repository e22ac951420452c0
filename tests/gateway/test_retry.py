"""A request whose worker or host has died is sent once more, and never a third time."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from prelim_client.answers import ReportError
from prelim_client.http_client import HttpClient
from tests.gateway.conftest import Site, open_site
from tests.gateway.recorder import Recorder
from tests.gateway.test_limits import answer, of_handler

pytestmark = pytest.mark.gateway

DIED = b'{"code": 500, "type": "InternalServerException", "message": "Worker died."}'
WORKER, KILLED = answer(500, DIED), answer(507, DIED)
"""What TorchServe answers when its worker has ended by itself, and when it was killed."""

REPORT = answer(200, b'{"report": "clear"}')
HANDLER = of_handler(500, "NonFiniteOutput")
HEADER_OF_A_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = bytes(range(256)) * 8000


@pytest.fixture
def turns(site: Site) -> Iterator[list[bytes]]:
    """Answers of the server, in order."""
    yield site.recorder.turns
    site.recorder.turns.clear()


@pytest.mark.parametrize("path", ["/predictions/demo", "/v1/chat/completions"])
@pytest.mark.parametrize("death", [WORKER, KILLED, b""], ids=["worker", "killed", "host"])
def test_one_death_is_not_seen(site: Site, turns: list[bytes], path: str, death: bytes) -> None:
    """The second attempt has the same body, and its answer is the client's."""
    turns += [death, REPORT]
    status, headers, contents = site.ask("POST", path, BODY)
    assert (status, contents) == (200, {"report": "clear"})
    first, second = site.recorder.seen
    assert first.body == second.body == BODY
    assert first.target == second.target
    assert first.headers["x-request-id"] == second.headers["x-request-id"] == headers["x-request-id"]


@pytest.mark.parametrize("second", [WORKER, KILLED, b""], ids=["worker", "killed", "host"])
@pytest.mark.parametrize("first", [WORKER, KILLED, b""], ids=["worker", "killed", "host"])
def test_two_deaths_are_an_error(site: Site, turns: list[bytes], first: bytes, second: bytes) -> None:
    """The request may be the cause: 500, and no third attempt."""
    turns += [first, second, REPORT]
    status, _, contents = site.ask("POST", "/predictions/demo", b"x")
    assert (status, contents["error"]["type"]) == (500, "InternalError")
    assert len(site.recorder.seen) == 2


def test_second_attempt_is_known_at_both_ends(site: Site, turns: list[bytes]) -> None:
    """The client is told of the gateway's, which may break off later; after its own the gateway makes no other."""
    turns += [KILLED, REPORT]
    assert site.ask("POST", "/predictions/demo", b"x")[1]["x-prelim-attempt"] == "2"
    assert "x-prelim-attempt" not in site.ask("POST", "/predictions/demo", b"x")[1]
    for death in (WORKER, KILLED, b""):
        site.recorder.seen.clear()
        turns[:] = [death]
        status, _, contents = site.ask("POST", "/predictions/demo", b"x", X_Prelim_Attempt="2")
        assert (status, contents["error"]["type"]) == (500, "InternalError")
        assert len(site.recorder.seen) == 1


HEARTBEATS = HEADER_OF_A_STREAM + b"1\r\n\n\r\n"
"""Of an answer that breaks off."""


@pytest.mark.parametrize("deaths", [[KILLED, HEARTBEATS], [HEARTBEATS, KILLED], 2 * [HEARTBEATS], [b"", HEARTBEATS]])
def test_gateway_and_client_try_twice_together(site: Site, turns: list[bytes], deaths: list[bytes]) -> None:
    """Whichever of them notices a death."""
    client = HttpClient(f"http://{site.settings.listen}", site.key, "demo", 20)
    for ask in (lambda: client.report(b"image"), lambda: list(client.stream(b"image"))):
        site.recorder.seen.clear()
        turns[:] = [*deaths, REPORT]
        with pytest.raises((ReportError, requests.RequestException)):
            ask()
        assert len(site.recorder.seen) == 2


def test_unreachable_server_is_no_death(tmp_path: Path) -> None:
    """A second attempt that reaches nobody is refused as the first one would be."""
    recorder = Recorder()
    with (site := open_site(tmp_path, recorder)).nginx:
        recorder.close()
        for attempt in ("1", "2"):
            assert site.ask("POST", "/predictions/demo", b"x", X_Prelim_Attempt=attempt)[0] == 503


def test_errors_of_the_handler_are_final(site: Site, turns: list[bytes]) -> None:
    """A 500 with which no worker died is not asked for again, and passes; so does one after a death."""
    turns += [HANDLER, REPORT]
    for count, first in enumerate(([HANDLER, REPORT], [KILLED, HANDLER, REPORT]), start=1):
        turns[:] = first
        site.recorder.seen.clear()
        status, _, contents = site.ask("POST", "/predictions/demo", b"x")
        assert (status, contents["error"]["type"]) == (500, "NonFiniteOutput")
        assert len(site.recorder.seen) == count


def test_refusal_after_a_death_is_a_refusal(site: Site, turns: list[bytes]) -> None:
    """The queue was full for the second attempt."""
    turns += [KILLED, answer(503, b"{}")]
    status, headers, contents = site.ask("POST", "/predictions/demo", b"x")
    assert (status, headers["retry-after"], contents["error"]["type"]) == (503, "5", "Overloaded")


def test_output_is_never_followed_by_a_second_attempt(site: Site, turns: list[bytes]) -> None:
    """An answer that has begun and breaks off ends the connection: the client must not take it for whole."""
    turns += [HEADER_OF_A_STREAM + b"2\r\n\n\n\r\n", REPORT]
    request = f"POST /predictions/demo HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {site.key}\r\n"
    with socket.create_connection(site.address, timeout=20) as connection:
        connection.sendall(f"{request}Content-Length: 1\r\n\r\nx".encode())
        received = b""
        while more := connection.recv(65536):
            received += more
    assert received.startswith(b"HTTP/1.1 200")
    assert not received.endswith(b"0\r\n\r\n")
    assert len(site.recorder.seen) == 1
