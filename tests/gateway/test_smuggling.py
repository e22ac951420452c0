"""Malformed framing: the upstream server never sees a second request hidden in a first one.

TorchServe's HTTP library lets four of six such forms through on a kept-alive connection.
"""

import re

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
