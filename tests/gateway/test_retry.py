"""A request whose worker or host has died is sent once more, and never a third time."""

import socket
from collections.abc import Iterator

import pytest

from tests.gateway.conftest import Site
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
