"""The queue survives crashes, full disks, upgrades and its own administration."""

import contextlib
import multiprocessing
import os
import resource
import signal
import sqlite3
from pathlib import Path

import pytest

from bridge.store.queue import Queue, sole_process
from bridge.store.schema import MIGRATIONS, NotRecorded, QueueError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the queue is."""
    return tmp_path / "state" / "queue.sqlite"


def open_queue(path: Path, now: float = 1000.0) -> "contextlib.closing[Queue]":
    """Open the queue at a fixed time."""
    return contextlib.closing(Queue(path, lambda: now))


def _notify_and_die(path: Path, count: int) -> None:
    queue = Queue(path)
    for number in range(count):
        queue.notify(f"1.2.{number}", 0)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_was_notified_is_there_after_a_kill(path: Path) -> None:
    """Every call that returned is on the disk."""
    process = multiprocessing.get_context("fork").Process(target=_notify_and_die, args=(path, 20))
    process.start()
    process.join()

    with open_queue(path) as queue:
        assert queue.counts()["waiting"] == 20


def test_the_files_are_private(path: Path) -> None:
    """Only the bridge's user may read the queue, which has UIDs."""
    with open_queue(path):
        assert path.stat().st_mode & 0o077 == 0
        assert path.parent.stat().st_mode & 0o077 == 0


def test_a_job_is_given_out_once_and_in_order(path: Path) -> None:
    """The study that was due first comes first; until it is released, nobody else gets it."""
    with open_queue(path) as queue:
        queue.notify("1.2.2", -5)
        queue.notify("1.2.1", -9)
        queue.notify("1.2.3", 5)
        first, second = queue.take(), queue.take()

        assert first is not None
        assert second is not None
        assert (first.study, second.study) == ("1.2.1", "1.2.2")
        assert queue.take() is None
        queue.release(first)
        assert queue.take() == first


def test_a_poll_notifies_of_what_is_new_or_changed(path: Path) -> None:
    """The same sight twice is one event."""
    with open_queue(path) as queue:
        assert queue.see("1.2", "a", 0)
        assert not queue.see("1.2", "a", 0)
        assert queue.see("1.2", "b", 0)


def test_a_full_disk_records_nothing_and_loses_nothing(path: Path) -> None:
    """SQLite's own limit of pages makes its disk full; recorded events stay, and new ones are recorded afterwards."""
    with open_queue(path) as queue:
        queue.notify("1.2.0", 0)
        (pages,) = queue._base.execute("PRAGMA page_count").fetchone()
        queue._base.execute(f"PRAGMA max_page_count = {pages}")
        recorded = 1
        with contextlib.suppress(NotRecorded):
            for number in range(1, 10_000):
                queue.notify(f"1.2.{number}", 0)
                recorded += 1
        with pytest.raises(NotRecorded, match="disk_full"):
            queue.notify("1.3", 0)
        assert queue.counts()["waiting"] == recorded
        queue._base.execute("PRAGMA max_page_count = 100000")
        queue.notify("1.9", 0)
        assert queue.counts()["waiting"] == recorded + 1


def test_a_locked_queue_records_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reported the study is told, and sends it again."""
    monkeypatch.setattr("bridge.store.database.LOCKED_S", 0.0)
    with open_queue(path) as queue, contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotRecorded, match="queue_locked"):
            queue.notify("1.2", 0)
        other.execute("ROLLBACK")
        assert queue.counts()["waiting"] == 0
        queue.notify("1.2", 0)


def test_a_clock_that_is_set_back_delays_no_study(path: Path) -> None:
    """Events that a wrong clock dated into the future are due; a delay of a day is one."""
    with open_queue(path, now=2_000_000_000.0) as queue:
        queue.notify("1.1", 2)
    with open_queue(path, now=1_800_000_000.0) as queue:
        queue.notify("1.2", 86400)
        job = queue.take()
        assert job is not None
        assert job.study == "1.1"
        assert queue.take() is None


def test_purge_removes_old_outcomes_and_never_what_waits(path: Path) -> None:
    """A study that has waited for a year stays; a finished one goes with the records of its drafts."""
    with open_queue(path) as queue:
        queue.notify("1.1", 0)
        queue.notify("1.2", 0)
        job = queue.take()
        assert job is not None
        queue.add_document(job.study, "2.25.1", "sr", "")
        queue.finish(job, "reported", "", "f")
    with open_queue(path, now=1000.0 + 400 * 86400) as queue:
        assert queue.purge(30) == 1
        assert [entry.study for entry in queue.list()] == [{"1.1": "1.2", "1.2": "1.1"}[job.study]]
        assert queue.drafts(job.study) == {}


def test_a_backup_is_a_queue_and_does_not_overwrite(path: Path, tmp_path: Path) -> None:
    """Used as the queue, the copy has the same studies, drafts and switch."""
    copy = tmp_path / "restored" / "queue.sqlite"
    copy.parent.mkdir()
    with open_queue(path) as queue:
        queue.notify("1.2", 0)
        queue.add_document("1.2", "2.25.1", "sr", "")
        queue.paused = True
        queue.back_up(copy)
        with pytest.raises(QueueError, match="exists"):
            queue.back_up(copy)
    with open_queue(copy) as restored:
        assert restored.counts()["waiting"] == 1
        assert restored.drafts("1.2") == {"2.25.1": ""}
        assert restored.paused


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_an_older_schema_is_upgraded_with_its_contents(path: Path, version: int) -> None:
    """A database of every earlier version opens, with its studies, and works."""
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as old:
        for script in MIGRATIONS[:version]:
            old.executescript(script)
        old.execute(f"PRAGMA user_version = {version}")
        old.execute("INSERT INTO study (uid, due, updated) VALUES ('1.2', 0, 0)")
        old.execute("INSERT INTO draft (uid, study, replaced, sent) VALUES ('2.25.1', '1.2', '', 0)")
    with open_queue(path) as queue:
        job = queue.take()
        assert job is not None
        queue.retry(job, 5, "pacs_500", counted=True)
        assert [(entry.study, entry.reason, entry.tries) for entry in queue.list("waiting")] == [("1.2", "pacs_500", 1)]
        assert queue.documents("1.2") == [("2.25.1", "sr")]


def test_an_upgrade_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that fails in its middle leaves the version before it."""
    with open_queue(path) as queue:
        queue.notify("1.2", 0)
    monkeypatch.setattr(Queue, "migrations", (*MIGRATIONS, "CREATE TABLE new (a); SELECT fault;"))
    with pytest.raises(sqlite3.OperationalError):
        Queue(path)
    monkeypatch.undo()
    with open_queue(path) as queue:
        assert queue.counts()["waiting"] == 1
        assert queue._base.execute("SELECT count(*) FROM sqlite_master WHERE name = 'new'").fetchone() == (0,)


def test_a_newer_schema_is_refused(path: Path) -> None:
    """An older bridge does not touch the database of a newer one, and says so."""
    with open_queue(path) as queue:
        queue._base.execute("PRAGMA user_version = 99")
    with pytest.raises(QueueError, match="schema 99"):
        Queue(path)


def test_a_failure_is_listed_while_a_study_waits_and_does_not_replace_its_outcome(path: Path) -> None:
    """A refused study that is looked at again during an outage is refused for the old reason afterwards."""
    with open_queue(path) as queue:
        reasons = []
        for reason in ("", "pacs_503", ""):
            queue.notify("1.2", 0)
            job = queue.take()
            assert job is not None
            if reason:
                queue.retry(job, 0, reason, counted=False)
            elif not reasons:
                queue.finish(job, "refused", "422_body_part", "f")
            else:
                queue.finish_unchanged(job)
            queue.release(job)
            reasons += [entry.reason for entry in queue.list()]
    assert reasons == ["422_body_part", "pacs_503", "422_body_part"]


def test_a_damaged_database_is_named(path: Path) -> None:
    """Not a traceback of sqlite3: what to do."""
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(QueueError, match="damaged: restore a backup, or delete it"):
        Queue(path)


def test_a_backup_that_cannot_be_written_leaves_nothing(path: Path, tmp_path: Path) -> None:
    """A folder that is not there, and a place without room for the copy."""
    with open_queue(path) as queue:
        queue.notify("1.2", 0)
        with pytest.raises(QueueError, match="cannot be written: No such file"):
            queue.back_up(tmp_path / "none" / "copy.sqlite")
        copy = tmp_path / "copy.sqlite"
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
        try:
            with pytest.raises(QueueError, match="is the disk full"):
                queue.back_up(copy)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, before)
        assert not copy.exists()


def test_two_bridges_do_not_share_a_state_folder(tmp_path: Path) -> None:
    """The second is refused; after the first has ended, it may start."""
    with sole_process(tmp_path), pytest.raises(QueueError, match="another bridge"), sole_process(tmp_path):
        pass
    with sole_process(tmp_path):
        pass
