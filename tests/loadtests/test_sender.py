"""Which answers count as correct, refused, shed or failed; and which key is used."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests

from loadtests.payloads import Payload, Refusal
from loadtests.sender import Failed, KeyFile, Sender
from loadtests.traffic import PlannedRequest
from prelim_client.answers import ReportError
from tests.loadtests.test_answer_checks import ANSWER

BROKEN = Payload("text", b"text", Refusal(415, "NotAnImage"))
IMAGE = Payload("PNG 0", b"image")


def write_key(path: Path, key: str, lifetime: timedelta) -> None:
    """A key file as TorchServe writes it, nanoseconds included."""
    expires = (datetime.now(UTC) + lifetime).strftime("%Y-%m-%dT%H:%M:%S.%f") + "123Z"
    path.write_text(json.dumps({"inference": {"key": key, "expiration time": expires}}), encoding="utf-8")


@pytest.fixture
def sender(tmp_path: Path) -> Sender:
    """A sender without a running server."""
    write_key(tmp_path / "key_file.json", "one", timedelta(hours=1))
    return Sender("http://127.0.0.1:9", "127.0.0.1:9", "demo", KeyFile(tmp_path / "key_file.json"), timeout=1)


def send(sender: Sender, payload: Payload, answer: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Send over HTTP to a server that gives this answer."""
    monkeypatch.setattr(sender, "_ask", lambda _: answer())
    sender.send(PlannedRequest(0, 0.0, "HTTP", "raw", payload, "greedy", {}))


def error(code: int, kind: str) -> Callable[[], Any]:
    """An error as answer."""

    def answer() -> Any:
        raise ReportError(code, kind, "text")

    return answer


class Call(grpc.RpcError):
    """A gRPC call that failed."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self.code = lambda: code
        self.details = lambda: details


def test_report_and_expected_refusal_pass(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """A correct report for an image and the expected error for a broken file are both successes."""
    send(sender, IMAGE, lambda: ANSWER, monkeypatch)
    send(sender, BROKEN, error(415, "NotAnImage"), monkeypatch)


@pytest.mark.parametrize(
    ("code", "kind", "shed"),
    [
        (503, "ServiceUnavailableException", True),
        (503, "Overloaded", True),
        (503, "InternalServerException", False),
        (500, "InternalError", False),
        (400, "InvalidKeyException", False),
        (415, "UnreadableInput", False),
    ],
)
@pytest.mark.parametrize("payload", [IMAGE, BROKEN])
def test_other_errors_fail(
    sender: Sender, payload: Payload, *, code: int, kind: str, shed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other error fails, also for broken files: a wrong key is not a refusal. Only overload counts as shed."""
    with pytest.raises(Failed, match=f"{code} {kind}") as raised:
        send(sender, payload, error(code, kind), monkeypatch)

    assert raised.value.shed == shed


def test_report_for_a_broken_file_fails(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report on something that is not a radiograph is a failure."""
    with pytest.raises(Failed, match="should get 415 NotAnImage"):
        send(sender, BROKEN, lambda: ANSWER, monkeypatch)


def test_wrong_body_under_200_fails(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """A status of 200 with a report that is not marked UNVERIFIED is a failure."""
    with pytest.raises(Failed, match="200, but status"):
        send(sender, IMAGE, lambda: ANSWER | {"status": "FINAL"}, monkeypatch)


@pytest.mark.parametrize(
    ("raised", "shed"),
    [
        (Call(grpc.StatusCode.INTERNAL, 'Model "demo" has no worker to serve inference request. Please'), True),
        (Call(grpc.StatusCode.INTERNAL, "InternalServerException"), False),
        (Call(grpc.StatusCode.DEADLINE_EXCEEDED, ""), False),
        (requests.ReadTimeout(), False),
    ],
)
def test_transport_errors_fail(sender: Sender, raised: Exception, shed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request without an answer fails; over gRPC a full queue is recognized by its message."""

    def answer() -> Any:
        raise raised

    with pytest.raises(Failed) as found:
        send(sender, IMAGE, answer, monkeypatch)

    assert found.value.shed == shed


def test_no_server_is_a_failure(sender: Sender) -> None:
    """Without a server the request fails and not the run, over both transports."""
    for transport in ("HTTP", "gRPC"):
        with pytest.raises(Failed, match=r"ConnectionError|UNAVAILABLE|DEADLINE_EXCEEDED"):
            sender.send(PlannedRequest(0, 0.0, transport, "multipart", IMAGE, "greedy", {"num_beams": 1}))


def test_key_is_read_again_when_it_expires(tmp_path: Path) -> None:
    """A renewed key is read once the old one has expired, and not before."""
    path = tmp_path / "key_file.json"
    write_key(path, "old", timedelta(seconds=0.3))
    keys = KeyFile(path)
    assert keys.key() == "old"

    write_key(path, "new", timedelta(hours=1))

    assert keys.key() == "old"
    time.sleep(0.35)
    assert keys.key() == "new"
