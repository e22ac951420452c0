"""The durable queue: which studies wait, what became of the others, and which drafts were sent.

One row is a study, which waits or has an outcome. Waiting is all that means work; nothing is written when work starts,
so a process that is killed leaves the study waiting and the next process does it again, to the same result. An event
that arrives during the work counts up `events`, and `finish` leaves a study waiting whose count has moved. Every change
is one transaction, on disk before the call returns.
"""

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bridge.store.database import Database
from bridge.store.schema import MIGRATIONS, QueueError

OUTCOMES = ("reported", "skipped", "refused", "dead")
STATES = ("waiting", *OUTCOMES)

STATE = "CASE WHEN waiting THEN 'waiting' ELSE outcome END"
REASON = "CASE WHEN waiting THEN failure ELSE reason END"
FORGIVE = "attempts = 0, tries = 0, failing_since = NULL, failure = ''"


A_DAY_S = 86400.0
"""No delay is longer (bridge.configuration): a study that is due later was recorded before a clock was set back."""


@dataclass(frozen=True)
class DueStudy:
    """A study that is due.

    events        : its count when the work began
    attempts      : failures in a row that were about this study
    tries         : failures in a row, outages included
    failing_since : seconds since 1970 of the first of them, or None
    fingerprint   : the state of the study that its outcome is about, or ""
    """

    study: str
    events: int
    attempts: int = 0
    tries: int = 0
    failing_since: float | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Entry:
    """A study as `python -m bridge queue` lists it.

    reason  : of the outcome, or the last failure of a study that waits
    updated : in seconds since 1970
    """

    study: str
    state: str
    reason: str
    tries: int
    updated: float


class Queue(Database):
    """The queue in one SQLite file, used by the threads of one process and, at the same time, by the command line.

    clock : returns the time in seconds since 1970

    Raises QueueError for a file that cannot be used, NotRecorded.
    """

    migrations = MIGRATIONS

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        super().__init__(path, clock)
        self._taken: set[str] = set()

    def notify(self, study: str, delay: float) -> None:
        """Record that something happened to a study, which makes it due after `delay` seconds.

        Raises NotRecorded.
        """
        now = self._clock()
        with self._transaction() as base:
            base.execute(
                "INSERT INTO study (uid, due, updated) VALUES (?, ?, ?) ON CONFLICT (uid) DO UPDATE SET waiting = 1, "
                f"due = excluded.due, events = events + 1, {FORGIVE}, updated = excluded.updated",
                (study, now + delay, now),
            )

    def see(self, study: str, seen: str, delay: float) -> bool:
        """Record what a poll saw of a study, and notify if it is new or another than last time; whether it was.

        Raises NotRecorded.
        """
        with self._transaction() as base:
            row = base.execute("SELECT seen FROM study WHERE uid = ?", (study,)).fetchone()
            if row is not None and row[0] == seen:
                return False
            self.notify(study, delay)
            base.execute("UPDATE study SET seen = ? WHERE uid = ?", (seen, study))
        return True

    def take(self) -> DueStudy | None:
        """Return the study that has been due for longest, or None; it is not given out again before it is finished."""
        now = self._clock()
        with self._lock:
            rows = self._base.execute(
                "SELECT uid, events, attempts, tries, failing_since, fingerprint FROM study WHERE waiting "
                "AND (due <= ? OR due > ?) ORDER BY due LIMIT ?",
                (now, now + A_DAY_S, len(self._taken) + 1),
            )
            for row in rows:
                if row[0] not in self._taken:
                    self._taken.add(row[0])
                    return DueStudy(*row)
        return None

    def finish(self, job: DueStudy, outcome: str, reason: str, fingerprint: str) -> None:
        """Record the outcome of a job. If an event came in the meantime, the study keeps waiting."""
        with self._transaction() as base:
            base.execute(
                f"UPDATE study SET waiting = (events != ?), outcome = ?, reason = ?, fingerprint = ?, {FORGIVE}, "
                "updated = ? WHERE uid = ?",
                (job.events, outcome, reason, fingerprint, self._clock(), job.study),
            )

    def finish_unchanged(self, job: DueStudy) -> None:
        """Record that there was nothing to do: the earlier outcome is still true."""
        with self._transaction() as base:
            base.execute(
                f"UPDATE study SET waiting = (events != ?), {FORGIVE}, updated = ? WHERE uid = ?",
                (job.events, self._clock(), job.study),
            )

    def retry(self, job: DueStudy, delay: float, reason: str, *, counted: bool) -> None:
        """Make a failed job due again after `delay` seconds. `counted`: the failure was about this study."""
        now = self._clock()
        with self._transaction() as base:
            base.execute(
                "UPDATE study SET due = ?, attempts = attempts + ?, tries = tries + 1, updated = ?, "
                "failing_since = coalesce(failing_since, ?), failure = ? WHERE uid = ? AND events = ?",
                (now + delay, int(counted), now, now, reason, job.study, job.events),
            )

    def release(self, job: DueStudy) -> None:
        """Give a job back, in whatever state it is."""
        with self._lock:
            self._taken.discard(job.study)

    def revive(self, outcome: str = "dead", study: str | None = None) -> int:
        """Make studies with an outcome due at once, and forget the state that it was about; the number of studies."""
        now = self._clock()
        with self._transaction() as base:
            changed = base.execute(
                f"UPDATE study SET waiting = 1, due = ?, {FORGIVE}, fingerprint = '', events = events + 1, updated = ? "
                "WHERE NOT waiting AND outcome = ? AND (? IS NULL OR uid = ?)",
                (now, now, outcome, study, study),
            )
        return changed.rowcount

    def add_document(self, study: str, uid: str, kind: str, replaced: str, fingerprint: str = "") -> float:
        """Record that a document of a draft of a state of a study was stored; `uid` is the draft's.

        Returns when the first document of this draft was recorded, in seconds since 1970.
        """
        with self._transaction() as base:
            base.execute(
                "INSERT INTO draft (uid, study, replaced, sent, fingerprint) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (uid) DO UPDATE SET fingerprint = excluded.fingerprint",
                (uid, study, replaced, self._clock(), fingerprint),
            )
            base.execute("INSERT OR IGNORE INTO document (draft, kind) VALUES (?, ?)", (uid, kind))
            (sent,) = base.execute("SELECT sent FROM draft WHERE uid = ?", (uid,)).fetchone()
        return float(sent)

    def state_of_draft(self, uid: str) -> str:
        """Return the fingerprint of the state of the study that a draft is about, or "" if it is unknown."""
        with self._lock:
            row = self._base.execute("SELECT fingerprint FROM draft WHERE uid = ?", (uid,)).fetchone()
        return "" if row is None else str(row[0])

    def drafts(self, study: str) -> Mapping[str, str]:
        """Return the drafts that were stored for a study: SOP Instance UID -> UIDs of those that it replaces.

        Several UIDs are separated by backslashes.
        """
        with self._lock:
            return dict(self._base.execute("SELECT uid, replaced FROM draft WHERE study = ?", (study,)))

    def documents(self, study: str) -> list[tuple[str, str]]:
        """Return the documents that were stored for a study, each as its draft and its kind."""
        with self._lock:
            return self._base.execute(
                "SELECT draft, kind FROM document JOIN draft ON draft = uid WHERE study = ?", (study,)
            ).fetchall()

    def counts(self) -> dict[str, int]:
        """Return the number of studies in each state."""
        with self._lock:
            found = dict(self._base.execute(f"SELECT {STATE}, count(*) FROM study GROUP BY 1"))
        return {state: found.get(state, 0) for state in STATES}

    def list(self, state: str | None = None) -> list[Entry]:
        """Return the studies in a state, or all, the latest change first."""
        with self._lock:
            rows = self._base.execute(
                f"SELECT uid, {STATE}, {REASON}, tries, updated FROM study WHERE ? IS NULL OR {STATE} = ? "
                "ORDER BY updated DESC",
                (state, state),
            ).fetchall()
        return [Entry(*row) for row in rows]

    @property
    def paused(self) -> bool:
        """Whether work is switched off."""
        return bool(self.recall("paused"))

    @paused.setter
    def paused(self, value: bool) -> None:
        self.remember("paused", int(value))

    def recall(self, name: str) -> int | None:
        """Return a number that was remembered under a name, or None."""
        with self._lock:
            row = self._base.execute("SELECT value FROM switch WHERE name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def remember(self, name: str, value: int) -> None:
        """Remember a number, until another is remembered under this name.

        Raises NotRecorded.
        """
        with self._transaction() as base:
            base.execute("INSERT OR REPLACE INTO switch (name, value) VALUES (?, ?)", (name, value))

    def purge(self, days: float) -> int:
        """Remove finished studies that have not changed for some days, with their drafts' records; their number."""
        with self._transaction() as base:
            removed = base.execute(
                "DELETE FROM study WHERE NOT waiting AND updated < ?", (self._clock() - days * 86400,)
            )
        return removed.rowcount

    def back_up(self, path: Path) -> None:
        """Write a consistent copy, also while the bridge runs.

        Raises QueueError if the file exists or cannot be written; half a copy is removed.
        """
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            raise QueueError(f"{path.name} exists; give a new file name") from None
        except OSError as error:
            raise QueueError(f"{path.name} cannot be written: {error.strerror}") from None
        try:
            with self._lock, contextlib.closing(sqlite3.connect(path)) as copy:
                self._base.backup(copy)
        except sqlite3.Error as error:
            path.unlink()
            raise QueueError(f"{path.name} could not be written: {error}; is the disk full?") from None


@contextlib.contextmanager
def sole_process(folder: Path) -> Iterator[None]:
    """Hold the state folder for this process.

    Raises QueueError if another bridge has it: two would do the same work twice.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise QueueError(f"the state folder {folder} cannot be used: {error.strerror}") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise QueueError("another bridge works on this state folder; stop it first") from None
        yield
