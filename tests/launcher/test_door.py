"""What the launcher tells the gateway's door, and TorchServe's queue, in the course of a start; no server is needed."""

import argparse
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from launcher import __main__ as launcher
from launcher.admission import Throughput
from launcher.archives import CheckedArchive
from launcher.errors import LaunchError
from launcher.gateway.door import LOAD_FAILED, MEASURING, STARTING, STOPPED, STOPPING, Door
from launcher.process import exclusive, is_launching


class FakeServer(SimpleNamespace):
    """What a start asks of a server; it notes what it is started with, and what the door was meanwhile."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder=folder, store=folder / "store", temporary=folder / "tmp", process=None)
        (folder / "logs").mkdir()
        (folder / "tmp" / "gateway" / "_errors").mkdir(parents=True)
        self.door = Door(self.temporary)
        self.url, self.key_file, self.console = "http://127.0.0.1:9", folder / "keys", folder / "console"
        self.max_wait_s = 3.0
        self.queues: list[int | None] = []
        self.doors: list[str | None] = []
        self.fails = False

    def start(self, archives: list[str], queue: int | None) -> None:
        """Note the queue."""
        self.queues.append(queue)

    def wait_until_ready(self, model: str, seconds: float) -> None:
        """Note the door, or fail as a model does."""
        self.doors.append(self.door.closed)
        if self.fails:
            raise LaunchError(f"tiny cannot be loaded: {self.store}/tiny.mar is damaged\nand much more")

    def stop(self) -> None:
        """It has nothing to stop."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """A server with one archive."""
    archive = CheckedArchive(tmp_path / "tiny.mar", "tiny", "1")
    monkeypatch.setattr(launcher, "check_store", lambda store, other_code: [archive])
    monkeypatch.setattr(launcher, "measure", lambda server, name: Throughput(10.0, 0.1, 4))
    return FakeServer(tmp_path)


def start(server: Any, queue: int | None = None) -> None:
    """Start it as the command does."""
    launcher._launch(server, argparse.Namespace(other_code=False, queue=queue, timeout=1.0))


def test_first_start_measures_behind_a_closed_door(server: FakeServer) -> None:
    """Then it loads again with the queue; the next start knows it. The gateway opens the door at the end."""
    start(server)
    assert (server.queues, server.doors) == ([None, 30], [MEASURING[0], STARTING[0]])
    assert server.door.closed == STARTING[0]
    start(server)
    assert server.queues == [None, 30, 30]
    start(server, queue=7)
    assert server.queues[3:] == [7]


@pytest.mark.parametrize("error", [requests.ConnectionError("away"), FileNotFoundError("no radiograph")])
def test_model_that_cannot_be_measured_is_served(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the queue of config.properties, and a remark."""

    def fail(server: Any, name: str) -> Throughput:
        raise error

    monkeypatch.setattr(launcher, "measure", fail)
    start(server)
    assert (server.queues, server.door.closed) == ([None], STARTING[0])
    assert "job_queue_size of config.properties holds" in capsys.readouterr().err


def refused(server: FakeServer) -> dict[str, Any]:
    """What the door answers with."""
    contents: dict[str, Any] = json.loads((server.door.folder / "_errors" / "closed.json").read_text())["error"]
    return contents


@pytest.mark.parametrize("at", ["check", "load"])
def test_failed_start_leaves_the_reason_on_the_door(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Its first line, without the folder of the installation."""

    def check(store: Path, other_code: bool) -> Callable[[], None]:
        raise LaunchError(f"{store}/tiny.mar is damaged")

    if at == "check":
        monkeypatch.setattr(launcher, "check_store", check)
    server.fails = True
    with pytest.raises(LaunchError):
        start(server)
    assert refused(server)["type"] == LOAD_FAILED
    assert refused(server)["message"] in ("tiny.mar is damaged", "tiny cannot be loaded: tiny.mar is damaged")


def test_second_start_leaves_the_door_of_the_first_open(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stops it: the first server continues."""

    def check(store: Path, other_code: bool) -> list[CheckedArchive]:
        raise LaunchError("damaged")

    def start_again(archives: list[str], queue: int | None) -> None:
        raise LaunchError("the server runs already")

    server.process = server
    monkeypatch.setattr(server, "start", start_again)
    with pytest.raises(LaunchError, match="runs already"):
        start(server)
    assert server.door.closed is None
    monkeypatch.setattr(launcher, "check_store", check)
    with pytest.raises(LaunchError, match="damaged"):
        start(server)
    assert server.door.closed is None


def test_stop_closes_first(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The door is closed while requests in hand are waited for, and says afterwards that nothing runs."""
    server.process = server
    seen: list[str | None] = []

    def drained(seconds: float) -> int:
        seen.append(server.door.closed)
        return 0

    server.drain = drained
    assert launcher.stop(server, argparse.Namespace(drain=1.0)) == 0  # type: ignore[arg-type]
    assert seen == ["Stopping"]
    assert server.door.closed == STOPPED[0]


@pytest.mark.parametrize("other", [False, True], ids=["alone", "while another stops it"])
def test_end_of_serve_is_that_of_a_launcher(server: FakeServer, monkeypatch: pytest.MonkeyPatch, other: bool) -> None:
    """The gateway must not open the door of a server that is drained; it sees by the lock that a launcher is at it."""
    monkeypatch.setattr(launcher, "LOCK_S", 0)
    monkeypatch.setattr(launcher, "_launch", lambda server, arguments: None)
    server.process = server
    seen: list[tuple[str | None, bool]] = []

    def drained(seconds: float) -> int:
        seen.append((server.door.closed, is_launching(server.temporary)))
        return 0

    server.drain = drained
    with ExitStack() as stack:

        def interrupt() -> bool:
            if other:
                stack.enter_context(exclusive(server.temporary))
            raise KeyboardInterrupt

        server.is_alive = interrupt
        assert launcher.serve(server, argparse.Namespace(drain=5.0)) == 0  # type: ignore[arg-type]
    assert seen == [(STOPPING[0], True)]
    assert server.door.closed == STOPPED[0]
