"""With an audit log, each report has its line before it is sent, and the line tells nothing of patient or report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handlers.auditor import FINDINGS, FOLDER, KEY
from prelim.audit.check import read_log
from prelim.audit.key import AuditKey
from prelim.audit.log import HEAD, parts_of
from tests.handlers.fake_generator import FakeGenerator
from tests.handlers.frontend import Frontend

PLANTED = "Plantedname"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The file of the key."""
    file = tmp_path / "audit.key"
    file.write_text("0123456789abcdef" * 4)
    file.chmod(0o600)
    return file


@pytest.fixture
def folder(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the log, named by the environment."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "audit"))
    monkeypatch.setenv(KEY, str(key))
    return tmp_path / "audit"


@pytest.fixture
def audited(folder: Path, serve: Callable[..., Frontend]) -> Frontend:
    """A frontend whose handler has an audit log."""
    return serve(prelim={"steps_per_handle": 2, "heartbeat_s": 1000})


def lines(folder: Path, key: Path) -> list[dict[str, Any]]:
    """The lines of the log, which are checked."""
    return [line for line, _ in read_log(folder, AuditKey.read(key))]


def test_every_report_has_a_line(audited: Frontend, folder: Path, key: Path) -> None:
    """Over HTTP, gRPC, streamed and as a chat completion, with the id of the request; a request that fails has none."""
    url = "data:image/png;base64,aGVhcnQ="
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    headers = {"url_path": "v1/chat/completions", "X-Request-Id": "completion"}
    jobs = [
        audited.submit({"body": b"heart"}, {"X-Request-Id": "plain"}),
        audited.submit({"image": b"heart", "stream": b"true"}, {"X-Request-Id": "streamed"}),
        audited.submit_grpc(image=b"heart", request_id=b"grpc"),
        audited.submit({"body": json.dumps({"messages": messages}).encode()}, headers),
        audited.submit({"body": b"broken"}, {"X-Request-Id": "broken"}),
    ]
    audited.run()

    written = {line["request"]: line for line in lines(folder, key)}
    assert [job.status for job in jobs] == [200, 200, 200, 200, 415]
    assert written.keys() == {"plain", "streamed", "grpc", "completion"}
    answers = [json.loads(b"".join(job.chunks).splitlines()[-1]) for job in jobs[:4]]
    assert [one.get("prelim", one)["request_id"] for one in answers] == ["plain", "streamed", "grpc", "completion"]
    assert len({line["digests"]["text"] for line in written.values()}) == 1
    assert len({tuple(line["images"]) for line in written.values()}) == 1
    assert written["plain"]["model"] == {"name": "fake", "version": "7", "sha256": "0" * 64}
    assert {"time", "code", "libraries", "processor", "threads", "options", "warnings"} <= written["plain"].keys()


def test_nothing_of_the_patient_or_the_report_is_in_a_line(audited: Frontend, folder: Path) -> None:
    """Neither texts of the request, which can have a name in them, nor the image, nor the text of the report."""
    body = {"image": "aGVhcnQ=", "prompt": PLANTED, "options": {"stop": [PLANTED], "banned_phrases": [PLANTED]}}
    job = audited.submit({"body": json.dumps(body).encode()}, JSON)
    audited.run()

    (part,) = parts_of(folder)
    assert job.body["report"] == "heart heart heart heart heart heart"
    assert PLANTED not in part.read_text()
    assert "heart" not in part.read_text()
    assert json.loads(part.read_text())["texts"].keys() == {"prompt", "stop", "banned_phrases"}


def test_report_without_its_line_is_not_given(audited: Frontend, folder: Path) -> None:
    """When the log cannot be written the request gets 503; a stream ends with the error. The worker serves on."""
    head = (folder / HEAD).read_bytes()
    (folder / HEAD).write_bytes(b"damaged")
    job = audited.submit({"body": b"heart"})
    stream = audited.submit({"image": b"heart", "stream": b"true"})
    audited.run()
    (folder / HEAD).write_bytes(head)
    after = audited.submit({"body": b"heart"})
    audited.run()

    assert job.status == 503
    assert job.body["error"]["type"] == "NotAudited"
    assert json.loads(stream.chunks[-1])["error"]["code"] == 503
    assert after.status == 200


def test_seed_that_was_left_to_chance_is_recorded(
    audited: Frontend, generator: FakeGenerator, folder: Path, key: Path
) -> None:
    """And used: without it no sampled report could be written again."""
    for options in ({"do_sample": b"true"}, {"do_sample": b"true", "seed": b"7"}, {}):
        audited.submit({"image": b"heart", **options})
    audited.run()

    seeds = [line["options"]["seed"] for line in lines(folder, key)]
    assert seeds == [request.options.seed for request in generator.seen.values() if request.options]
    assert isinstance(seeds[0], int)
    assert seeds[1:] == [7, None]


@pytest.mark.parametrize("missing", [FOLDER, KEY])
def test_half_a_setting_is_refused(
    folder: Path, serve: Callable[..., Frontend], monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """A folder without a key, or the reverse, stops the start: nobody must think that reports are recorded."""
    monkeypatch.delenv(missing)
    with pytest.raises(RuntimeError, match="set both"):
        serve()


@pytest.mark.parametrize("name", [FOLDER, KEY])
def test_relative_path_is_refused(
    folder: Path, serve: Callable[..., Frontend], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A worker would look for it in the folder of its archive, which the next start removes."""
    monkeypatch.setenv(name, "audit")
    with pytest.raises(RuntimeError, match=f"{name} is 'audit'; it must begin with /"):
        serve()


def test_log_that_was_changed_stops_the_start(folder: Path, serve: Callable[..., Frontend]) -> None:
    """The reason names the file."""
    folder.mkdir()
    (folder / HEAD).write_bytes(b"damaged")
    with pytest.raises(RuntimeError, match="audit/head was changed"):
        serve()


def test_findings_and_refusals_are_recorded_where_versions_are_compared(
    folder: Path, key: Path, serve: Callable[..., Frontend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nowhere else: a line tells then what a report says, in labels."""
    for number, findings in enumerate([None, "yes"]):
        if findings is not None:
            monkeypatch.setenv(FINDINGS, findings)
        frontend = serve()
        for word in (b"pneumothorax", b"broken"):
            frontend.submit({"body": word}, {"X-Request-Id": f"{word.decode()}{number}"})
        frontend.run()

    written = {line["request"]: line for line in lines(folder, key)}
    assert written.keys() == {"pneumothorax0", "pneumothorax1", "broken1"}
    assert "findings" not in written["pneumothorax0"]
    assert written["pneumothorax1"]["findings"] == {"pneumothorax": "positive"}
    assert written["broken1"]["refused"] == {"code": 415, "type": "NotAnImage"}
    monkeypatch.setenv(FINDINGS, "1")
    with pytest.raises(RuntimeError, match="set it to yes"):
        serve()
