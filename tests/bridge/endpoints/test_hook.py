"""The address that the PACS calls: it answers at once, to those who may, and says nothing about the request."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from bridge.configuration import settings as config
from bridge.endpoints.hook import listen_to_hook
from bridge.store.queue import Queue
from tests.bridge.studies import STUDY


@contextmanager
def listening(folder: Path, queue_options: dict[str, Any] | None = None, **hook: Any) -> Iterator[tuple[str, Queue]]:
    """Yield the address of a hook and its queue."""
    given = {
        "state": "state",
        "dicomweb": {"url": "http://127.0.0.1:1"},
        "hook": {"port": 0, **hook},
        "queue": queue_options or {},
    }
    settings = config.Settings.read(given, "test", folder)
    queue = Queue(settings.state / "queue.sqlite")
    with listen_to_hook(settings, queue) as port:
        yield f"http://127.0.0.1:{port}", queue
    queue.close()


def test_an_event_is_queued_and_answered_at_once(tmp_path: Path) -> None:
    """202, and the study is due."""
    with listening(tmp_path) as (url, queue):
        answer = requests.post(f"{url}/studies/{STUDY}", timeout=10)

        assert (answer.status_code, answer.content) == (202, b"")
        job = queue.take()
        assert job is not None
        assert job.study == STUDY


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/studies/",
        "/studies/NAME",
        f"/studies/{STUDY}?name=NAME",
        f"/studies/{STUDY}/",
        "/studies/" + "1" * 65,
        "/studies/1..2",
    ],
)
def test_other_paths_are_not_found(tmp_path: Path, path: str) -> None:
    """404 without a body, and nothing is queued."""
    with listening(tmp_path) as (url, queue):
        answer = requests.post(f"{url}{path}", timeout=10)

        assert (answer.status_code, answer.content) == (404, b"")
        assert queue.counts()["waiting"] == 0


def test_a_token_is_required_where_one_is_configured(tmp_path: Path) -> None:
    """Without the token, or with another, 401."""
    (tmp_path / "token").write_text("secret\n")
    with listening(tmp_path, token_file="token") as (url, queue):  # noqa: S106 - a file name
        codes = [
            requests.post(f"{url}/studies/{STUDY}", headers=headers, timeout=10).status_code
            for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "Bearer secret"})
        ]
        assert codes == [401, 401, 202]
        assert queue.counts()["waiting"] == 1


def test_a_full_disk_is_answered(tmp_path: Path) -> None:
    """Below min_free_mb, 507 and nothing queued; polling finds the study later."""
    with listening(tmp_path, {"min_free_mb": 2**30}) as (url, queue):
        assert requests.post(f"{url}/studies/{STUDY}", timeout=10).status_code == 507
        assert queue.counts()["waiting"] == 0


def test_what_is_not_http_is_neither_quoted_nor_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer to a malformed request has none of its text."""
    with listening(tmp_path) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"GET /PLANTED HTTP/1.1 PLANTED\r\n\r\n")
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(10_000)
    assert b"PLANTED" not in answer
    assert "PLANTED" not in capsys.readouterr().err
