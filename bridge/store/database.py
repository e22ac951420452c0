"""A SQLite file whose changes are transactions, each on the disk before the call returns."""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from bridge.store.schema import NotRecorded, QueueError, migrate

LOCKED_S = 30.0
"""How long a transaction waits for another program's."""


class Database:
    """One file, used by the threads of one process and, at the same time, by the command line.

    migrations : scripts of its schema, see bridge.store.schema
    clock      : returns the time in seconds since 1970

    Raises QueueError for a file that cannot be used, NotRecorded.
    """

    migrations: ClassVar[Sequence[str]]

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            self._base = sqlite3.connect(path, timeout=LOCKED_S, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.OperationalError) as error:
            raise QueueError(f"{path} cannot be opened: {getattr(error, 'strerror', error)}") from None
        try:
            self._base.execute("PRAGMA journal_mode = WAL")
            # NORMAL would lose the last transactions in a power failure.
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.execute("PRAGMA foreign_keys = ON")
            with self._transaction() as base:
                migrate(base, path.name, self.migrations)
        except sqlite3.DatabaseError as error:
            self._base.close()
            if isinstance(error, sqlite3.OperationalError):
                raise NotRecorded.of(error) from None
            raise QueueError(
                f"{path.name} is damaged: restore a backup, or delete it; polling fills a new one"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Run what is inside as one transaction; a transaction inside a transaction is part of it.

        Raises NotRecorded.
        """
        with self._lock:
            if self._base.in_transaction:
                yield self._base
                return
            try:
                self._base.execute("BEGIN IMMEDIATE")
                yield self._base
                self._base.execute("COMMIT")
            except BaseException as error:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise NotRecorded.of(error) from None
                raise
