"""Malformed framing: the upstream server never sees a second request hidden in a first one.

TorchServe's HTTP library lets four of six such forms through on a kept-alive connection.
"""

import contextlib
import re
import socket

import pytest

from tests.gateway.conftest import Site

pytestmark = pytest.mark.gateway

HIDDEN = b"GET /models?customized=true HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
CHUNKED = b"0\r\n\r\n" + HIDDEN
ONE = b"1\r\nx\r\n" + CHUNKED

FRAMINGS = {
    "length and chunked": (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", CHUNKED),
    "chunked and length": (b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", CHUNKED),
    "chunked": (b"Transfer-Encoding: chunked\r\n", ONE),
    "unknown encoding": (b"Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n", CHUNKED),
    "encoding in capitals": (b"Content-Length: 5\r\nTransfer-Encoding: CHUNKED\r\n", CHUNKED),
    "encoding with identity": (b"Content-Length: 5\r\nTransfer-Encoding: chunked, identity\r\n", CHUNKED),
    "no encoding by its name": (b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n", CHUNKED),
    "identity, chunked": (b"Transfer-Encoding: identity, chunked\r\nContent-Length: 5\r\n", CHUNKED),
    "packed and chunked": (b"Transfer-Encoding: gzip, chunked\r\n", ONE),
    "two encodings": (b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", CHUNKED),
    "space before the colon": (b"Content-Length: 5\r\nTransfer-Encoding : chunked\r\n", CHUNKED),
    "tab after the colon": (b"Content-Length: 5\r\nTransfer-Encoding:\tchunked\r\n", CHUNKED),
    "vertical tab": (b"Content-Length: 5\r\nTransfer-Encoding:\x0bchunked\r\n", CHUNKED),
    "control character": (b"Content-Length: 5\r\nTransfer-Encoding: \x00chunked\r\n", CHUNKED),
    "quoted": (b'Content-Length: 5\r\nTransfer-Encoding: "chunked"\r\n', CHUNKED),
    "folded": (b"Content-Length: 5\r\nTransfer-Encoding:\r\n chunked\r\n", CHUNKED),
    "folded name": (b"Content-Length: 5\r\nX: y\r\n Transfer-Encoding: chunked\r\n", CHUNKED),
    "bare line feed": (b"Content-Length: 5\nTransfer-Encoding: chunked\r\n", CHUNKED),
    "bare carriage return": (b"Content-Length: 5\rTransfer-Encoding: chunked\r\n", CHUNKED),
    "underscore": (b"Content_Length: 999\r\nTransfer_Encoding: chunked\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "two lengths": (b"Content-Length: 1\r\nContent-Length: 60\r\n", b"x" + HIDDEN),
    "two lengths, the longer first": (b"Content-Length: 60\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "two equal lengths": (b"Content-Length: 1\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "list of lengths": (b"Content-Length: 1, 1\r\n", b"x" + HIDDEN),
    "signed length": (b"Content-Length: +1\r\n", b"x" + HIDDEN),
    "negative length": (b"Content-Length: -1\r\n", b"x" + HIDDEN),
    "hexadecimal length": (b"Content-Length: 0x1\r\n", b"x" + HIDDEN),
    "empty length": (b"Content-Length: \r\n", b"x" + HIDDEN),
    "huge length": (b"Content-Length: 18446744073709551617\r\n", b"x" + HIDDEN),
    "length of zero": (b"Content-Length: 0\r\n", HIDDEN),
    "no length": (b"", HIDDEN),
    "chunk with an extension": (b"Transfer-Encoding: chunked\r\n", b"1;a=\nb\r\nx\r\n" + CHUNKED),
    "chunk with a bad size": (b"Transfer-Encoding: chunked\r\n", b"0x1\r\nx\r\n" + CHUNKED),
    "hop-by-hop length": (b"Connection: keep-alive, Content-Length\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "expectation": (b"Expect: 100-continue\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "unknown expectation": (b"Expect: everything\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "upgrade": (
        b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 1\r\n",
        b"x" + HIDDEN,
    ),
    "upgrade to a socket": (b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "chunked with trailers": (
        b"Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n",
        b"1\r\nx\r\n0\r\nContent-Length: 60\r\n\r\n" + HIDDEN,
    ),
    "chunked that ends in line feeds": (b"Transfer-Encoding: chunked\r\n", b"1\nx\n0\n\n" + HIDDEN),
    "trailers instead of a length": (b"TE: trailers\r\nTrailer: Content-Length\r\n", HIDDEN),
    "two hosts": (b"Host: attacker.example\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "two equal hosts": (b"Host: 127.0.0.1\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "null byte in a value": (b"X: a\x00b\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "null byte in a name": (b"Content-\x00Length: 60\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "null byte before the length": (b"Content-Length: \x001\r\n", b"x" + HIDDEN),
    "header without a name": (b": x\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "header without a colon": (b"Transfer-Encoding chunked\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "method in a header": (b"X-HTTP-Method-Override: GET\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "path in a header": (b"X-Original-URL: /models\r\nX-Rewrite-URL: /models\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
    "TorchServe's own headers": (b"url_path: models\r\nexplain: True\r\nContent-Length: 1\r\n", b"x" + HIDDEN),
}

LINES = {
    "absolute address": b"POST http://127.0.0.1/predictions/demo HTTP/1.1",
    "absolute address of another path": b"POST http://127.0.0.1/models HTTP/1.1",
    "HTTP/0.9": b"POST /predictions/demo",
    "HTTP/1.0": b"POST /predictions/demo HTTP/1.0",
    "HTTP/2": b"PRI * HTTP/2.0",
    "future version": b"POST /predictions/demo HTTP/9.9",
    "two spaces": b"POST  /predictions/demo  HTTP/1.1",
    "tab": b"POST\t/predictions/demo\tHTTP/1.1",
    "line feed in the path": b"POST /predictions/demo\nHTTP/1.1",
    "second version": b"POST /predictions/demo HTTP/1.1 HTTP/1.1",
    "fragment": b"POST /predictions/demo#/../models HTTP/1.1",
    "backslash": b"POST /predictions\\..\\models HTTP/1.1",
    "encoded slashes": b"POST /predictions%2Fdemo%2F..%2F..%2Fmodels HTTP/1.1",
    "slashes encoded twice": b"POST /predictions/demo%252F..%252Fmodels HTTP/1.1",
    "dot segments": b"POST /predictions/./demo/../../models HTTP/1.1",
    "encoded dot segments": b"POST /predictions/demo/%2e%2e/%2E%2E/models HTTP/1.1",
    "dot segments above the root": b"POST /../../models HTTP/1.1",
    "overlong dots": b"POST /predictions/%c0%ae%c0%ae/models HTTP/1.1",
    "null byte in the path": b"POST /predictions/demo\x00/../models HTTP/1.1",
    "encoded null byte": b"POST /predictions/demo%00 HTTP/1.1",
    "encoded line end": b"POST /predictions/demo%20HTTP/1.1%0d%0aX:%20y HTTP/1.1",
    "absolute address of another host": b"POST http://attacker.example/predictions/demo HTTP/1.1",
    "absolute address with a user": b"POST http://a:b@127.0.0.1/models HTTP/1.1",
    "authority": b"CONNECT 127.0.0.1:8080 HTTP/1.1",
    "asterisk": b"OPTIONS * HTTP/1.1",
    "path without a slash": b"POST predictions/demo HTTP/1.1",
    "empty path": b"POST  HTTP/1.1",
    "method in small letters": b"post /predictions/demo HTTP/1.1",
    "leading empty lines": b"\r\n\r\nPOST /predictions/demo HTTP/1.1",
}


def check_seen(site: Site, most: int = 1) -> None:
    """Whatever came through is one whole request to the model each, on a connection of its own."""
    assert len(site.recorder.seen) <= most
    for seen in site.recorder.seen:
        assert seen.target == "POST /predictions/demo"
        assert seen.rest == b""
        assert "transfer-encoding" not in seen.headers
        assert len(seen.body) == int(seen.headers["content-length"])
        assert HIDDEN not in seen.body


@pytest.mark.parametrize("case", FRAMINGS)
def test_hidden_requests_stay_hidden(site: Site, case: str) -> None:
    """At most the one allowed request passes, framed again by nginx; the hidden one is refused or never read."""
    headers, body = FRAMINGS[case]
    head = b"POST /predictions/demo HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + site.key.encode() + b"\r\n"
    received = site.send(head + headers + b"\r\n" + body)
    assert received.startswith((b"HTTP/1.1 ", b"HTTP/1.0 "))
    assert received.count(b"HTTP/1.1 200 ") == len(site.recorder.seen)
    check_seen(site)


@pytest.mark.parametrize("case", LINES)
def test_odd_request_lines_are_refused_or_normalized(site: Site, case: str) -> None:
    """The request line that TorchServe sees is always nginx's own."""
    head = LINES[case] + b"\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + site.key.encode() + b"\r\n"
    site.send(head + b"Content-Length: 1\r\n\r\nx" + HIDDEN)
    check_seen(site)


@pytest.mark.parametrize("other", ["Bearer tests." + 43 * "a", "Basic dGVzdHM6YQ==", ""])
@pytest.mark.parametrize("first", [False, True])
def test_a_second_authorization_is_refused(site: Site, other: str, first: bool) -> None:
    """A proxy in front may read another one of the two than nginx."""
    keys = [f"Bearer {site.key}", other]
    lines = "".join(f"Authorization: {key}\r\n" for key in (reversed(keys) if first else keys))
    head = f"POST /predictions/demo HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}Content-Length: 1\r\n\r\n"
    assert site.send(head.encode() + b"x").startswith(b"HTTP/1.1 400 ")
    assert site.recorder.seen == []


@pytest.mark.parametrize("path", [b"/v1/models", b"/v1/models/demo", b"/ready"])
@pytest.mark.parametrize("chunked", [False, True])
def test_get_with_a_body_is_refused(site: Site, path: bytes, chunked: bool) -> None:
    """The body could be a request; without one, or with an empty one, a GET passes."""
    head = b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + site.key.encode() + b"\r\n"
    framed = (
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)
        if chunked
        else b"Content-Length: %d\r\n\r\n%b" % (len(HIDDEN), HIDDEN)
    )
    assert site.send(head + framed).startswith(b"HTTP/1.1 400 ")
    assert site.recorder.seen == []
    assert site.send(head + b"Content-Length: 0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    """Each on a connection of its own; TorchServe would answer them in order of completion."""
    good = (
        b"POST /predictions/demo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nAuthorization: Bearer "
        + site.key.encode()
        + b"\r\n\r\nx"
    )
    received = site.send(good + HIDDEN + good + HIDDEN, answers=4)
    codes = re.findall(rb"HTTP/1\.1 (\d+) ", received)
    # The hidden path is looked up among the page's files.
    assert codes == [b"200", b"404", b"200", b"404"]
    check_seen(site, most=2)
    assert len(site.recorder.seen) == 2


def test_expected_body_is_read_before_the_server_is_asked(site: Site) -> None:
    """The gateway itself asks for a body with `Expect`; until all of it has come TorchServe knows of no request."""
    head = b"POST /predictions/demo HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + site.key.encode()
    with socket.create_connection(site.address, timeout=20) as connection:
        connection.sendall(head + b"\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        for byte in (b"a", b"b"):
            connection.sendall(byte)
            assert site.ask("GET", "/config.json")[0] == 200
            assert site.recorder.seen == []
        connection.sendall(b"c")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    (seen,) = site.recorder.seen
    assert (seen.body, "expect" in seen.headers) == (b"abc", False)


@pytest.mark.parametrize("start", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", 300 * b"\x00"])
def test_other_protocols_are_refused(site: Site, start: bytes) -> None:
    """HTTP/2 without TLS, a TLS greeting, and bytes of nothing, on the port for HTTP/1.1."""
    assert not re.search(rb"HTTP/1\.1 2", site.send(start + HIDDEN))
    assert site.recorder.seen == []


def test_http_1_on_the_grpc_port_is_refused(site: Site) -> None:
    """That port speaks HTTP/2 only."""
    host, _, port = site.settings.listen_grpc.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /predictions/demo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\n\r\nx")
        answered = b""
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(65536):
                answered += more
    assert b"HTTP/1.1 2" not in answered
    assert site.recorder.seen == []
