"""The audit log of a server: a folder with numbered files of lines, and the head, which says where they end.

A line that is missing at the end breaks no chain: the head has the number of lines and the hash of the last one, and
is sealed. Several processes may append; each holds the lock of the head meanwhile. A process may die between a line and
the head: the next one finds that line and counts it, or cuts off the piece of it that was written.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prelim.audit.key import AuditKey
from prelim.audit.lines import FIRST, hash_of, open_line, seal_line
from prelim.errors import AuditError

HEAD = "head"
PART_BYTES = 64 * 2**20
"""A file that is as long as this gets no further line."""

_HEAD = re.compile(rb"([0-9]{20}) ([0-9]{20}) ([0-9]{20}) ([0-9a-f]{64}) ([0-9a-f]{64})\n")


@dataclass(frozen=True)
class Head:
    """Where a log ends.

    lines : how many it has
    part  : number of the first line of its last file
    size  : bytes of its last file
    last  : hash of its last line
    """

    lines: int = 0
    part: int = 1
    size: int = 0
    last: str = FIRST

    def to_bytes(self, key: AuditKey) -> bytes:
        """Always of the same length, so that it is replaced in its place."""
        body = f"{self.lines:020d} {self.part:020d} {self.size:020d} {self.last}".encode()
        return body + b" " + key.digest("head", body).encode() + b"\n"

    @classmethod
    def read(cls, folder: Path, contents: bytes, key: AuditKey) -> "Head":
        """The head of a log; of a new one where both are empty. Raises AuditError if it is not what was written."""
        found = _HEAD.fullmatch(contents)
        if found is None and not contents and not parts_of(folder):
            return cls()
        head = None if found is None else cls(int(found[1]), int(found[2]), int(found[3]), found[4].decode())
        if head is None or head.to_bytes(key) != contents:
            raise AuditError(f"{folder / HEAD} was changed or removed, or belongs to another key")
        return head


def part_of(folder: Path, first: int) -> Path:
    """The file whose first line has this number."""
    return folder / f"audit-{first:012d}.jsonl"


def parts_of(folder: Path) -> list[Path]:
    """All files of lines, in their order."""
    return sorted(folder.glob("audit-*.jsonl"))


class AuditLog:
    """Appends to the log of a folder, which is made if it is not there. Only its owner can read it.

    part_bytes : after so many bytes a new file begins

    Raises AuditError if the folder cannot be used, or its log was changed where it ends.
    """

    def __init__(self, folder: Path, key: AuditKey, part_bytes: int = PART_BYTES) -> None:
        self.folder, self.key, self.part_bytes = folder, key, part_bytes
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_uid != os.geteuid():
                raise AuditError(f"{folder}, the audit log, belongs to another user; set it to a folder of yours")
            folder.chmod(0o700)
            self._head = os.open(folder / HEAD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AuditError(f"{folder}, the audit log, cannot be used ({error.strerror})") from None
        with self._locked():
            self._settle()

    def append(self, fields: Mapping[str, Any]) -> int:
        """Write a line, and wait until it is on the disk; returns its number.

        Raises AuditError, and leaves the log as it was, if it cannot be written, or was changed where it ends.
        """
        with self._locked():
            head = self._settle()
            if head.size >= self.part_bytes:
                head = Head(head.lines, head.lines + 1, 0, head.last)
                self._write_head(head)
            line = seal_line(head.lines + 1, head.last, fields, self.key)
            try:
                self._write(line, head)
                self._write_head(Head(head.lines + 1, head.part, head.size + len(line), hash_of(line)))
            except OSError as error:
                # What cannot be undone now, the next process finds.
                with suppress(OSError, AuditError):
                    self._write_head(head)
                    os.truncate(part_of(self.folder, head.part), head.size)
                raise AuditError(f"no line can be written to {self.folder} ({error.strerror})") from None
            return head.lines + 1

    def close(self) -> None:
        """Close the files."""
        os.close(self._head)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._head, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._head, fcntl.LOCK_UN)

    def _write(self, line: bytes, head: Head) -> None:
        path = part_of(self.folder, head.part)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            left = memoryview(line)
            while left:
                left = left[os.write(file, left) :]
            os.fdatasync(file)
        finally:
            os.close(file)
        if head.size == 0:
            _synchronize_names(self.folder)

    def _write_head(self, head: Head) -> None:
        # Not synchronized: after a loss of power an older head is found, which `_settle` brings up to date.
        os.pwrite(self._head, head.to_bytes(self.key), 0)

    def _settle(self) -> Head:
        """The head, once it counts all lines. Raises AuditError if the log was changed where it ends."""
        contents = os.pread(self._head, 1000, 0)
        head = Head.read(self.folder, contents, self.key)
        path = part_of(self.folder, head.part)
        size = path.stat().st_size if path.exists() else 0
        if size < head.size:
            raise AuditError(f"{path} has {size} bytes, but {head.size} were written: its end was removed")
        if size > head.size:
            head = self._count_in(path, head)
        if size > head.size:
            os.truncate(path, head.size)
        if not contents or head.to_bytes(self.key) != contents:
            self._write_head(head)
        return head

    def _count_in(self, path: Path, head: Head) -> Head:
        """The head with the whole lines after it. Raises AuditError for one that this log did not write."""
        with path.open("rb") as file:
            file.seek(head.size)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    open_line(line, head.lines + 1, head.last, self.key)
                except AuditError as error:
                    raise AuditError(f"{path} was changed after line {head.lines}: {error}") from None
                head = Head(head.lines + 1, head.part, head.size + len(line), hash_of(line))
        return head


def _synchronize_names(folder: Path) -> None:
    """Wait until the names of a folder's files are on the disk."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
