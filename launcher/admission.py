"""How long TorchServe's queue may be: as long as its last request is answered in time.

TorchServe refuses a request at once when its queue is full, and has no other way to refuse one. The queue's length is
set before the models are loaded, so what a model can do is measured once for each archive and machine, and kept.
"""

import contextlib
import itertools
import json
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launcher.archives import CheckedArchive
from launcher.server import Server
from prelim_client.http_client import HttpClient

LONE_REQUESTS = 3
MEASURE_S = 3.0
"""Seconds of full batches, of which at least one is measured."""

TIMEOUT_S = 600
LONE_FACTOR = 5
"""A request may wait so many times what a report takes on an idle server, unless max_wait_s says otherwise."""


@dataclass(frozen=True)
class Throughput:
    """What a model does with its default options.

    reports_per_s : with all slots busy
    lone_s        : median seconds of one report on an idle server
    slots         : requests that are decoded together
    """

    reports_per_s: float
    lone_s: float
    slots: int


def queue_length(found: Sequence[Throughput], max_wait_s: float) -> int:
    """Requests that the server may have: what each model can answer within the longest allowed wait.

    Fewer than its slots would leave some empty. Those in slots count too: they leave their places in TorchServe's queue
    free, for when their worker dies.

    max_wait_s : seconds; 0 is LONE_FACTOR times what a lone report takes
    """
    return min(max(one.slots, int(one.reports_per_s * (max_wait_s or LONE_FACTOR * one.lone_s))) for one in found)


def measure(server: Server, model: str) -> Throughput:
    """Ask a ready model that nobody else asks. Raises ReportError, requests.RequestException."""
    # Commands that measure nothing start faster without it.
    from launcher.sample_radiograph import as_png, sample_radiograph

    picture = as_png(sample_radiograph())
    client = HttpClient(server.url, server.key(), model, TIMEOUT_S)
    slots = int(server.describe(model)["batchSize"])
    numbers = itertools.count()

    def ask() -> float:
        began = time.monotonic()
        # Bytes after the end of a PNG change nothing but its hash, and the hash would bring features from the cache.
        client.report(picture + str(next(numbers)).encode())
        return time.monotonic() - began

    lone = statistics.median(ask() for _ in range(LONE_REQUESTS))
    began, answered = time.monotonic(), 0
    users = ThreadPoolExecutor(slots)
    try:
        while not answered or time.monotonic() - began < MEASURE_S:
            answered += len([done.result() for done in [users.submit(ask) for _ in range(slots)]])
    finally:
        # After Ctrl-C the server is stopped, which ends their requests.
        users.shutdown(wait=False, cancel_futures=True)
    return Throughput(answered / (time.monotonic() - began), lone, slots)


class Records:
    """Measurements of earlier starts on this machine.

    file : JSON, by host name and sha256 of the archive
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self, archives: Sequence[CheckedArchive]) -> list[Throughput] | None:
        """Of these archives; None if one has not been measured."""
        known = self._all()
        try:
            return [Throughput(**known[self._name(archive)]) for archive in archives]
        except (KeyError, TypeError):
            return None

    def write(self, found: Mapping[CheckedArchive, Throughput]) -> None:
        """Add measurements. On a full disk they are not kept, and the next start measures again."""
        known = self._all() | {self._name(archive): asdict(one) for archive, one in found.items()}
        with contextlib.suppress(OSError):
            self._file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")

    def _all(self) -> dict[str, dict[str, Any]]:
        try:
            known = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    @staticmethod
    def _name(archive: CheckedArchive) -> str:
        return f"{platform.node()} {archive.sha256}"
