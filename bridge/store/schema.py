"""The schema of the queue's database, and how an older one becomes the newest."""

import sqlite3
from collections.abc import Sequence

MIGRATIONS = (
    """
    CREATE TABLE study (
        uid TEXT PRIMARY KEY,
        waiting INTEGER NOT NULL DEFAULT 1,
        outcome TEXT NOT NULL DEFAULT '' CHECK (outcome IN ('', 'reported', 'skipped', 'refused', 'dead')),
        reason TEXT NOT NULL DEFAULT '',
        due REAL NOT NULL,
        events INTEGER NOT NULL DEFAULT 1,
        attempts INTEGER NOT NULL DEFAULT 0,
        fingerprint TEXT NOT NULL DEFAULT '',
        updated REAL NOT NULL
    ) STRICT;
    CREATE INDEX study_due ON study (waiting, due);
    CREATE TABLE draft (
        uid TEXT PRIMARY KEY,
        study TEXT NOT NULL REFERENCES study (uid) ON DELETE CASCADE,
        replaced TEXT NOT NULL,
        sent REAL NOT NULL
    ) STRICT;
    CREATE INDEX draft_study ON draft (study);
    CREATE TABLE switch (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
    """,
    # 2: what a poll saw, so that the next one notices a change; failures in a row and since when, outages included.
    """
    ALTER TABLE study ADD COLUMN seen TEXT NOT NULL DEFAULT '';
    ALTER TABLE study ADD COLUMN tries INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE study ADD COLUMN failing_since REAL;
    """,
    # 3: why a study waits, for `queue list`; the reason of its last outcome stays.
    """
    ALTER TABLE study ADD COLUMN failure TEXT NOT NULL DEFAULT '';
    """,
    # 4: which state of the study a draft is about.
    """
    ALTER TABLE draft ADD COLUMN fingerprint TEXT NOT NULL DEFAULT '';
    """,
    # 5: which documents of a draft were stored; of the drafts so far only the SR is certain.
    """
    CREATE TABLE document (
        draft TEXT NOT NULL REFERENCES draft (uid) ON DELETE CASCADE,
        kind TEXT NOT NULL,
        PRIMARY KEY (draft, kind)
    ) STRICT;
    INSERT INTO document SELECT uid, 'sr' FROM draft;
    """,
)
"""Script number n brings a database of version n - 1 to version n (PRAGMA user_version). Scripts are never edited."""


AGREEMENT = (
    """
    CREATE TABLE drafted (
        study TEXT PRIMARY KEY,
        accession TEXT NOT NULL,
        placer TEXT NOT NULL,
        weights TEXT NOT NULL,
        findings TEXT NOT NULL,
        updated REAL NOT NULL
    ) STRICT;
    CREATE TABLE signed (
        name TEXT PRIMARY KEY,
        study TEXT NOT NULL,
        accession TEXT NOT NULL,
        placer TEXT NOT NULL,
        reported TEXT NOT NULL,
        findings TEXT NOT NULL,
        updated REAL NOT NULL
    ) STRICT;
    CREATE TABLE agreed (
        day TEXT NOT NULL,
        weights TEXT NOT NULL,
        finding TEXT NOT NULL,
        both INTEGER NOT NULL,
        draft INTEGER NOT NULL,
        signed INTEGER NOT NULL,
        neither INTEGER NOT NULL,
        PRIMARY KEY (day, weights, finding)
    ) STRICT;
    CREATE TABLE counted (name TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT;
    """,
)
"""The same for the database of signed reports. Study, accession, placer and name are digests with the site's key."""


class QueueError(Exception):
    """The queue cannot be opened; the message has no patient data."""


FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_IOERR_WRITE)


class NotRecorded(Exception):
    """The queue cannot be written now, and nothing was recorded.

    reason : "disk_full", "queue_locked" by another program for as long as a transaction waits, or "queue_unwritable"
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    @classmethod
    def of(cls, error: sqlite3.OperationalError) -> Exception:
        """What an error of SQLite means; the error itself if it is a fault of a statement."""
        code = error.sqlite_errorcode
        if code in FULL:
            return cls("disk_full")
        # The low byte says what it is about (SQLite, extended result codes).
        locked = code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        return error if code == sqlite3.SQLITE_ERROR else cls("queue_locked" if locked else "queue_unwritable")


def migrate(base: sqlite3.Connection, name: str, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring the schema to the newest version, inside a transaction of the caller's.

    Raises QueueError for the database of a newer bridge; `name` is that of its file.
    """
    (version,) = base.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise QueueError(
            f"{name} has schema {version}; this version of the bridge knows up to {len(migrations)}; "
            "start the newer version, or restore the backup made before the upgrade"
        )
    for number, script in enumerate(migrations[version:], start=version + 1):
        for statement in filter(str.strip, script.split(";")):
            base.execute(statement)
        base.execute(f"PRAGMA user_version = {number}")
