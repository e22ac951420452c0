"""HTTP/2 on the port for gRPC: what cannot be a message of RFC 9113 never reaches the server."""

import socket
import struct
from collections.abc import Iterator

import pytest

from tests.gateway.conftest import Site
from tests.gateway.test_grpc import MANAGEMENT, PREDICTIONS

pytestmark = pytest.mark.gateway

DATA, HEADERS, RESET, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4
MESSAGE = b"\0\0\0\0\1x"
"""Of gRPC: not compressed, one byte."""

Fields = list[tuple[bytes, bytes]]

WRONG: dict[str, tuple[Fields, Fields]] = {
    "a length that is too short": ([(b"content-length", b"1")], []),
    "a length that is too long": ([(b"content-length", b"100")], []),
    "a line end in a value": ([(b"x", b"a\r\nexplain: True")], []),
    "a line end in a name": ([(b"x\r\nexplain", b"True")], []),
    "a colon in a name": ([(b"explain: True\r\nx", b"a")], []),
    "capitals in a name": ([(b"Explain", b"True")], []),
    "a second path": ([(b":path", f"{MANAGEMENT}/ListModels".encode())], []),
    "a second method": ([(b":method", b"GET")], []),
    "an unknown pseudo header": ([(b":explain", b"True")], []),
    "a second authorization": ([(b"authorization", b"Bearer x")], []),
    "another host": ([(b"host", b"attacker.example")], []),
    "trailers": ([], [(b"explain", b"True")]),
    "a path in the trailers": ([], [(b":path", f"{MANAGEMENT}/ListModels".encode())]),
}


def pack(fields: Fields) -> bytes:
    """Return header fields in HPACK, literal and never indexed (RFC 7541 section 6.2.2)."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields)


def _text(text: bytes) -> bytes:
    # RFC 7541 section 5.1; no text here is longer.
    assert len(text) < 127 + 128
    return (bytes([len(text)]) if len(text) < 127 else bytes([127, len(text) - 127])) + text


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame (RFC 9113 section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def frames(connection: socket.socket) -> Iterator[int]:
    """Yield the kinds of the frames that come."""
    received = b""
    while more := connection.recv(65536):
        received += more
        while len(received) >= 9 + int.from_bytes(received[:3], "big"):
            yield received[3]
            received = received[9 + int.from_bytes(received[:3], "big") :]


@pytest.mark.parametrize("case", WRONG)
def test_malformed_messages_stay_here(site: Site, case: str) -> None:
    """Answered with an error, or the stream or the connection is ended; the server sees no connection at all."""
    more, trailers = WRONG[case]
    usual = {b":method": b"POST", b":scheme": b"http", b":path": PREDICTIONS.encode(), b":authority": b"127.0.0.1"}
    usual |= {b"content-type": b"application/grpc", b"te": b"trailers"}
    usual |= {b"authorization": f"Bearer {site.key}".encode()}
    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, b"")
    sent += frame(HEADERS, END_HEADERS, 1, pack([*usual.items(), *more]))
    sent += frame(DATA, 0 if trailers else END_STREAM, 1, MESSAGE)
    if trailers:
        sent += frame(HEADERS, END_HEADERS | END_STREAM, 1, pack(trailers))
    host, _, port = site.settings.listen_grpc.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent)
        assert any(kind in (HEADERS, RESET, GOAWAY) for kind in frames(connection))
    assert site.recorder.seen == []
