"""The client sends a request once more if its worker or host died before it brought any output."""

import json
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
import requests

from prelim_client.answers import ReportError
from prelim_client.grpc_client import PUSHBACK, SECOND, GrpcClient
from prelim_client.http_client import HttpClient, TwoDeaths
from prelim_client.readiness import wait_until_ready
from tests.gateway.recorder import Recorder


def answer(code: int, body: bytes) -> bytes:
    """An HTTP answer."""
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (code, len(body)) + body


DIED = b'{"code": 507, "type": "InternalServerException", "message": "Worker died."}'
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
HEARTBEAT = b"1\r\n\n\r\n"
REPORT = answer(200, b'{"report": "clear"}')
DEATHS = {"worker": answer(500, DIED), "killed": answer(507, DIED), "host": b"", "heartbeats": STREAM + 2 * HEARTBEAT}
"""What ends an attempt without output; heartbeats are white space under status 200."""


def piece(text: str) -> bytes:
    """A chunk with a piece of text."""
    line = json.dumps({"text": text}).encode() + b"\n"
    return b"%x\r\n%s\r\n" % (len(line), line)


def whole(*texts: str) -> bytes:
    """A stream that ends as it should."""
    report = json.dumps({"report": "".join(texts)}).encode() + b"\n"
    return STREAM + b"".join(map(piece, texts)) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(report), report)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A server with answers in turn."""
    server = Recorder()
    yield server
    server.close()


@pytest.fixture
def client(recorder: Recorder) -> HttpClient:
    """Of that server."""
    return HttpClient(f"http://127.0.0.1:{recorder.port}", "k", "demo", 20)


@pytest.mark.parametrize("death", DEATHS)
def test_one_death_is_not_seen(recorder: Recorder, client: HttpClient, death: str) -> None:
    """Over all ways to ask, the second attempt has the same body."""
    ways: list[Any] = [
        lambda: client.report(b"image"),
        lambda: client.report(b"image", num_beams=2),
        lambda: client.report_json(b"image"),
        lambda: list(client.stream(b"image"))[-1],
    ]
    for ask in ways:
        recorder.seen.clear()
        recorder.turns += [DEATHS[death], REPORT]
        assert ask() == {"report": "clear"}
        assert len(recorder.seen) == 2


@pytest.mark.parametrize("death", DEATHS)
def test_two_deaths_are_an_error(recorder: Recorder, client: HttpClient, death: str) -> None:
    """The request may be their cause: there is no third attempt."""
    for ask in (lambda: client.report(b"image"), lambda: list(client.stream(b"image"))):
        recorder.seen.clear()
        recorder.turns += [DEATHS[death], DEATHS[death]]
        with pytest.raises((ReportError, requests.RequestException)):
            ask()
        assert len(recorder.seen) == 2


def test_second_attempts_of_a_gateway_count(recorder: Recorder, client: HttpClient) -> None:
    """An answer that the gateway has marked is the last; the client marks its own second request."""
    marked = DEATHS["heartbeats"].replace(b"200 OK\r\n", b"200 OK\r\nX-Prelim-Attempt: 2\r\n")
    for ask in (lambda: client.report(b"image"), lambda: list(client.stream(b"image"))):
        recorder.seen.clear()
        recorder.turns.append(marked)
        with pytest.raises(TwoDeaths):
            ask()
        assert len(recorder.seen) == 1
        recorder.turns += [DEATHS["heartbeats"], REPORT]
        ask()
        assert [one.headers.get("x-prelim-attempt") for one in recorder.seen] == [None, None, "2"]


@pytest.mark.parametrize("code", [400, 500, 503, 504])
def test_other_errors_are_final(recorder: Recorder, client: HttpClient, code: int) -> None:
    """An answer that is an error is an answer; a refusal is for the caller to repeat."""
    recorder.turns.append(answer(code, b'{"error": {"code": %d, "type": "Some", "message": "text"}}' % code))
    with pytest.raises(ReportError, match=f"{code} Some"):
        client.report(b"image")
    assert len(recorder.seen) == 1


def test_stream_goes_on_where_it_broke_off(recorder: Recorder, client: HttpClient) -> None:
    """The pieces, joined, are the report, also if the second attempt cuts its text into other pieces."""
    recorder.turns += [STREAM + piece("the heart") + piece(" is"), whole("the", " heart ", "is not", " enlarged")]
    *pieces, last = client.stream(b"image")
    assert "".join(piece["text"] for piece in pieces) == last["report"] == "the heart is not enlarged"
    assert pieces[:2] == [{"text": "the heart"}, {"text": " is"}]
    assert len(recorder.seen) == 2


@pytest.mark.parametrize("second", [("a", " heart"), ()])
def test_stream_that_begins_otherwise_is_not_joined(
    recorder: Recorder, client: HttpClient, second: tuple[str, ...]
) -> None:
    """Of sampling without a seed: its reader has begun to show another text."""
    recorder.turns += [STREAM + piece("the"), whole(*second)]
    stream = client.stream(b"image")
    assert next(stream) == {"text": "the"}
    with pytest.raises(requests.RequestException):
        list(stream)


class Turns(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A server's only handler, which fails as it is told, and then answers."""

    def __init__(self, failures: list[tuple[Any, str, tuple[tuple[str, str], ...]]]) -> None:
        self.failures = failures
        self.calls = 0

    def service(self, details: Any) -> Any:
        """Serve every method."""

        def predict(request: bytes, context: Any) -> bytes:
            self.calls += 1
            if self.failures:
                code, text, metadata = self.failures.pop(0)
                context.set_trailing_metadata(metadata)
                context.abort(code, text)
            return b'\x0a\x13{"report": "clear"}'

        return grpc.unary_unary_rpc_method_handler(predict)


WORKER_DIED = "Worker died.\norg.pytorch.serve.http.InternalServerException"
REFUSED = (grpc.StatusCode.UNAVAILABLE, "overloaded", ((PUSHBACK, "5000"),))


@pytest.mark.parametrize(
    ("failures", "calls", "code"),
    [
        ([(grpc.StatusCode.INTERNAL, WORKER_DIED, ())], 2, None),
        ([(grpc.StatusCode.RESOURCE_EXHAUSTED, WORKER_DIED, ())], 2, None),
        ([(grpc.StatusCode.UNAVAILABLE, "Worker died.", ())], 2, None),
        ([(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer", ())], 2, None),
        (2 * [(grpc.StatusCode.INTERNAL, WORKER_DIED, ())], 2, grpc.StatusCode.INTERNAL),
        ([(grpc.StatusCode.INTERNAL, WORKER_DIED, (SECOND,))], 1, grpc.StatusCode.INTERNAL),
        ([REFUSED], 1, grpc.StatusCode.UNAVAILABLE),
        ([(grpc.StatusCode.INTERNAL, "other", ())], 1, grpc.StatusCode.INTERNAL),
    ],
)
def test_grpc_has_the_same_rule(failures: list[Any], calls: int, code: Any) -> None:
    """A death costs one attempt more; a refusal that says when to come back, and other errors, are final."""
    handler = Turns(list(failures))
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with GrpcClient(f"127.0.0.1:{port}", "k", "demo", 20) as client:
            if code is None:
                assert client.report(b"image") == {"report": "clear"}
            else:
                with pytest.raises(grpc.RpcError) as failed:
                    client.report(b"image")
                assert failed.value.code() is code
        assert handler.calls == calls
    finally:
        server.stop(None)


def test_wait_until_ready_waits(recorder: Recorder) -> None:
    """While the server starts, it asks again; a model that cannot be loaded is an error at once, with the reason."""
    url = f"http://127.0.0.1:{recorder.port}"
    starting = answer(503, b'{"error": {"code": 503, "type": "Starting", "message": "loading"}}')
    failed = answer(503, b'{"error": {"code": 503, "type": "LoadFailed", "message": "demo.mar is cut off"}}')
    recorder.turns += [starting, starting, answer(200, b'{"ready": true}')]
    wait_until_ready(url, 60)
    assert len(recorder.seen) == 3
    recorder.turns.append(starting)
    with pytest.raises(ReportError, match="Starting"):
        wait_until_ready(url, 0)
    recorder.turns += [starting, failed]
    with pytest.raises(ReportError, match=r"demo\.mar is cut off"):
        wait_until_ready(url, 600)


def test_wait_until_ready_of_a_server_that_is_not_there() -> None:
    """A refused connection is the error when the time is over."""
    server = Recorder()
    server.close()
    with pytest.raises(requests.ConnectionError):
        wait_until_ready(f"http://127.0.0.1:{server.port}", 0)
