"""A bridge without a network on the side of the PACS, and with a fake server on the other."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import config as pydicom_config

from bridge.configuration import settings as config
from bridge.dicom.identity import SiteKey
from bridge.drafting import Drafter
from bridge.store.queue import Queue
from bridge.study_worker import StudyWorker
from tests.bridge.fake_server import FakeServer
from tests.bridge.studies import MemoryPacs


@pytest.fixture(autouse=True)
def heard_libraries() -> Iterator[None]:
    """The program silences libraries for good; a test that runs it in this process must not do so to others."""
    mode = pydicom_config.settings.reading_validation_mode
    yield
    logging.disable(logging.NOTSET)
    pydicom_config.settings.reading_validation_mode = mode


class Clock:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@dataclass
class Bench:
    """The parts of a bridge, wired up as the service does."""

    pacs: MemoryPacs
    server: FakeServer
    queue: Queue
    worker: StudyWorker
    clock: Clock
    key: SiteKey

    def run(self, seconds: float = 0) -> None:
        """Let time pass, then work until nothing is due."""
        self.clock.now += seconds
        while self.worker.step():
            pass

    def state(self) -> tuple[str, str]:
        """Return state and reason of the only study."""
        (entry,) = self.queue.list()
        return entry.state, entry.reason


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeServer]:
    """A fake server."""
    with FakeServer(tmp_path) as running:
        yield running


@pytest.fixture
def make_bench(tmp_path: Path, server: FakeServer) -> Iterator[Callable[..., Bench]]:
    """Return a function that wires up a bridge: files in the PACS, keys of section `queue` or `server`."""
    queues = []

    def make(
        *files: bytes,
        server_options: dict[str, object] | None = None,
        report: dict[str, object] | None = None,
        **queue_options: object,
    ) -> Bench:
        given = {
            "state": "state",
            "server": {"url": server.url, "key_file": str(server.key_file), **(server_options or {})},
            "dicomweb": {"url": "http://127.0.0.1:1"},
            "queue": queue_options,
            "report": report or {},
        }
        settings = config.Settings.read(given, "test", tmp_path)
        clock = Clock()
        queue = Queue(settings.state / "queue.sqlite", clock)
        queues.append(queue)
        key = SiteKey.load(settings.state / "site.key")
        pacs = MemoryPacs(*files)
        worker = StudyWorker(settings, queue, key, Drafter(settings, queue, key, pacs, pacs, priors=pacs), clock)
        return Bench(pacs, server, queue, worker, clock, key)

    yield make
    for queue in queues:
        queue.close()
