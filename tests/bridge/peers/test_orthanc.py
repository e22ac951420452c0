"""Orthanc's change feed finds what a poll by Study Date cannot: studies without a date, and old ones that arrive."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bridge.configuration.settings import DicomWebSettings, PollSettings
from bridge.failures import Outage
from bridge.peers.dicomweb import DicomWebArchive
from bridge.peers.orthanc import ChangeFeed
from bridge.polling import Poll
from bridge.store.queue import Queue
from tests.bridge.receivers import answer_all

ORTHANC = "http://127.0.0.1:1"
PACS = DicomWebSettings(f"{ORTHANC}/dicom-web")


@dataclass
class Feed:
    """The answers of an Orthanc: its changes, and the modality of each study; every QIDO finds nothing."""

    changes: list[tuple[str, str]] = field(default_factory=list)
    modality: dict[str, str] = field(default_factory=dict)
    limit: int = 2

    def answer(self, url: str) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and header."""
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query, keep_blank_values=True)
        if path == "/changes":
            since = len(self.changes) - 1 if "last" in query else int(query["since"][0])
            rows = [
                {"ChangeType": kind, "ID": name, "Seq": number}
                for number, (kind, name) in enumerate(self.changes, start=1)
            ][max(since, 0) :][: self.limit]
            last = rows[-1]["Seq"] if rows else since
            contents: Any = {"Changes": rows, "Done": last >= len(self.changes), "Last": max(last, 0)}
        elif path.startswith("/studies/"):
            _, _, name, *series = path.split("/")
            if name not in self.modality:
                return 404, b"", {}
            contents = {"MainDicomTags": {"StudyInstanceUID": f"1.2.{name}"}}
            contents = [{"MainDicomTags": {"Modality": self.modality[name]}}] if series else contents
        else:
            contents = []
        return 200, json.dumps(contents).encode(), {"Content-Type": "application/json"}

    def arrive(self, name: str, modality: str = "CR", *kinds: str) -> None:
        """Add a study."""
        self.modality[name] = modality
        self.changes += [(kind, name) for kind in kinds or ("NewInstance", "NewStudy", "StableStudy")]


@pytest.fixture
def feed(monkeypatch: pytest.MonkeyPatch) -> Feed:
    """An Orthanc with one old study."""
    orthanc = Feed()
    orthanc.arrive("0")
    answer_all(monkeypatch, orthanc.answer)
    return orthanc


@contextlib.contextmanager
def polling(folder: Path, clock: list[float]) -> Iterator[tuple[Poll, Queue]]:
    """Yield a poll with its queue, at a time that a test moves."""
    settings = PollSettings(every_s=60.0, orthanc=ORTHANC)
    with contextlib.closing(Queue(folder / "queue.sqlite", lambda: clock[0])) as queue:
        yield Poll(settings, 2.0, queue, DicomWebArchive(PACS), ChangeFeed(ORTHANC, PACS)), queue


def due(queue: Queue) -> list[str]:
    """Return the studies that are due."""
    found = []
    while (job := queue.take()) is not None:
        found.append(job.study)
    return found


def test_what_arrives_after_the_start_is_found_once(tmp_path: Path, feed: Feed) -> None:
    """Over several pages, by another process too; what was there before, and studies of other kinds, are left alone."""
    clock = [1000.0]
    with polling(tmp_path, clock) as (poll, queue):
        poll()
        for name in ("1", "2", "3"):
            feed.arrive(name, "CR" if name != "2" else "CT")
        poll()
        clock[0] += 2.0
        assert due(queue) == ["1.2.1", "1.2.3"]
    feed.arrive("4", "DX")
    with polling(tmp_path, clock) as (poll, queue):
        for entry in queue.list():
            job = queue.take()
            assert job is not None
            queue.finish(job, "reported", "", entry.study)
        poll()
        assert [entry.study for entry in queue.list("waiting")] == ["1.2.4"]
        poll()
        assert [entry.state for entry in queue.list()].count("waiting") == 1


def test_a_study_of_which_orthanc_never_says_that_it_is_stable(tmp_path: Path, feed: Feed) -> None:
    """Orthanc was stopped within StableAge: the study is worked on after the time of a poll."""
    clock = [1000.0]
    with polling(tmp_path, clock) as (poll, queue):
        poll()
        feed.arrive("1", "CR", "NewStudy")
        poll()
        assert due(queue) == []
        clock[0] += 60
        assert due(queue) == ["1.2.1"]


def test_a_new_database_begins_a_new_feed(tmp_path: Path, feed: Feed) -> None:
    """Its changes are not taken for those after the old place; studies that are gone are left out."""
    clock = [1000.0]
    feed.changes += [("StableStudy", "gone")] * 5
    with polling(tmp_path, clock) as (poll, queue):
        poll()
        feed.changes.clear()
        feed.arrive("7")
        poll()
        assert due(queue) == []
        feed.arrive("8")
        feed.changes.append(("StableStudy", "gone"))
        poll()
        clock[0] += 2
        assert due(queue) == ["1.2.8"]


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"[]"), (200, b"<"), (401, b""), (404, b""), (500, b""), (200, b'{"Changes": [1]}')]
)
def test_another_answer_is_an_outage(monkeypatch: pytest.MonkeyPatch, status: int, body: bytes) -> None:
    """Nothing is remembered of it, and the next poll asks again."""
    answer_all(monkeypatch, lambda _: (status, body, {}))
    with pytest.raises(Outage, match="pacs_changes"):
        ChangeFeed(ORTHANC, PACS).end()
