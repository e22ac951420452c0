"""The audit log: whatever is changed in it is found, and a process or a disk that fails does not break it."""

import json
import multiprocessing
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prelim.audit.check import read_log
from prelim.audit.key import AuditKey
from prelim.audit.lines import hash_of
from prelim.audit.log import HEAD, AuditLog, parts_of
from prelim.errors import AuditError

KEY = AuditKey(b"k" * 32)
PART_BYTES = 1000
"""So that 12 lines are in several files."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log of 12 lines."""
    log = AuditLog(tmp_path / "audit", KEY, PART_BYTES)
    assert [log.append({"request": f"r{i}", "digests": {"text": "0" * 8}}) for i in range(12)] == [*range(1, 13)]
    log.close()
    return log.folder


def check(folder: Path, first: int = 1, key: AuditKey = KEY) -> list[int]:
    """The numbers of all lines. Raises AuditError if anything was changed."""
    return [line["line"] for line, _ in read_log(folder, key, first)]


def flip(file: Path, bit: int) -> None:
    """Change one bit of a file."""
    changed = bytearray(file.read_bytes())
    changed[bit // 8] ^= 1 << bit % 8
    file.write_bytes(changed)


def test_a_log_that_nobody_changed_is_accepted(folder: Path) -> None:
    """Over several files, which only their owner can read; each line has the hash of the line before."""
    lines = [line for part in parts_of(folder) for line in part.read_bytes().splitlines(keepends=True)]

    assert check(folder) == [*range(1, 13)]
    assert len(parts_of(folder)) > 2
    assert [json.loads(line)["before"] for line in lines] == ["0" * 64, *map(hash_of, lines[:-1])]
    assert folder.stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in folder.iterdir())


def test_every_single_bit_change_is_found(folder: Path, tmp_path: Path) -> None:
    """100 bits of lines and head, drawn at random, and those of the last line's end."""
    rng = random.Random(0)
    files = [*parts_of(folder), folder / HEAD]
    bits = [(file, bit) for file in files for bit in range(8 * file.stat().st_size)]
    last = [(files[-2], 8 * files[-2].stat().st_size - 1 - bit) for bit in range(16)]
    for file, bit in rng.sample(bits, 100) + last:
        copy = shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
        flip(copy / file.name, bit)
        with pytest.raises(AuditError):
            check(copy)


def _rewrite(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        part = parts_of(folder)[-1]
        part.write_bytes(b"".join(change(part.read_bytes().splitlines(keepends=True))))

    return apply


CHANGES: dict[str, Callable[[Path], object]] = {
    "the last line is removed": _rewrite(lambda lines: lines[:-1]),
    "the first line of a file is removed": _rewrite(lambda lines: lines[1:]),
    "two lines change places": _rewrite(lambda lines: [lines[1], lines[0], *lines[2:]]),
    "the last line is doubled": _rewrite(lambda lines: [*lines, lines[-1]]),
    "a line is added": _rewrite(lambda lines: [*lines, lines[-1].replace(b'"line":12', b'"line":13')]),
    "the last file is removed": lambda folder: parts_of(folder)[-1].unlink(),
    "a file in the middle is removed": lambda folder: parts_of(folder)[1].unlink(),
    "the first file is removed": lambda folder: parts_of(folder)[0].unlink(),
    "a file is added": lambda folder: (folder / "audit-000000000099.jsonl").write_bytes(b""),
    "the head is removed": lambda folder: (folder / HEAD).unlink(),
    "the head is emptied": lambda folder: (folder / HEAD).write_bytes(b""),
    "all files but the head are removed": lambda folder: [part.unlink() for part in parts_of(folder)],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_log_is_refused(folder: Path, change: Callable[[Path], object]) -> None:
    """Lines that are missing, at the end too, doubled, added or in another order."""
    assert len(parts_of(folder)[-1].read_bytes().splitlines()) >= 2
    change(folder)
    with pytest.raises(AuditError):
        check(folder)


def test_a_server_does_not_go_on_with_a_log_that_lost_its_end(folder: Path) -> None:
    """Neither a new process nor one that runs; nothing is appended that would hide it."""
    log = AuditLog(folder, KEY, PART_BYTES)
    CHANGES["the last line is removed"](folder)
    before = parts_of(folder)[-1].read_bytes()

    for write in (lambda: log.append({"request": "next"}), lambda: AuditLog(folder, KEY)):
        with pytest.raises(AuditError, match="its end was removed"):
            write()
    assert parts_of(folder)[-1].read_bytes() == before


def test_put_away_files(folder: Path) -> None:
    """The older files of a long log can be kept elsewhere, if it is said where the log begins now."""
    first = int(parts_of(folder)[1].stem.rpartition("-")[2])
    parts_of(folder)[0].unlink()

    assert check(folder, first) == [*range(first, 13)]


def test_another_key_is_refused(folder: Path) -> None:
    """To read and to append."""
    other = AuditKey(b"o" * 32)
    with pytest.raises(AuditError, match="another key"):
        check(folder, key=other)
    with pytest.raises(AuditError, match="another key"):
        AuditLog(folder, other)


@pytest.mark.parametrize("written", [0.0, 0.5, 1.0])
def test_process_that_died_while_it_wrote(folder: Path, written: float) -> None:
    """A line that is whole is counted, a piece of one is cut off, and the log continues."""
    head, part = (folder / HEAD).read_bytes(), parts_of(folder)[-1]
    size = part.stat().st_size
    log = AuditLog(folder, KEY)
    log.append({"request": "the last"})
    os.truncate(part, size + round(written * (part.stat().st_size - size)))
    (folder / HEAD).write_bytes(head)

    with pytest.raises(AuditError) if written else contextmanager(lambda: (yield))():
        check(folder)
    assert AuditLog(folder, KEY).append({"request": "after"}) == (14 if written == 1 else 13)
    assert len(check(folder)) == (14 if written == 1 else 13)


def test_planted_line_is_not_counted(folder: Path) -> None:
    """A line after the end that this key has not sealed stops the log instead."""
    CHANGES["a line is added"](folder)
    with pytest.raises(AuditError, match="was changed after line 12"):
        AuditLog(folder, KEY)


@contextmanager
def file_size(limit: int) -> Iterator[None]:
    """No file of this process can be longer: what a full disk does to a write, which ends in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_leaves_the_log_as_it_was(folder: Path) -> None:
    """The line that does not fit is refused, without a piece of it; with room the log continues."""
    log = AuditLog(folder, KEY)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    with file_size(parts_of(folder)[-1].stat().st_size + 100), pytest.raises(AuditError, match="no line can be"):
        log.append({"request": "does not fit"})

    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert log.append({"request": "fits"}) == 13
    assert check(folder) == [*range(1, 14)]


def _append(folder: Path, name: str) -> None:
    log = AuditLog(folder, KEY, 10 * PART_BYTES)
    for i in range(50):
        log.append({"request": f"{name}{i}"})


def test_several_processes_write_one_chain(tmp_path: Path) -> None:
    """All lines of four workers are there, each worker's in its order."""
    names = ["a", "b", "c", "d"]
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append, args=(tmp_path / "audit", name)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0

    requests = [line["request"] for line, _ in read_log(tmp_path / "audit", KEY)]
    assert len(requests) == 200
    for name in names:
        assert [request for request in requests if request[0] == name] == [f"{name}{i}" for i in range(50)]


def test_key_files(tmp_path: Path) -> None:
    """A key that is missing, short or open to others is refused, with the command that makes a good one."""
    file = tmp_path / "audit.key"
    with pytest.raises(AuditError, match="openssl rand"):
        AuditKey.read(file)
    file.write_text("short\n")
    file.chmod(0o600)
    with pytest.raises(AuditError, match="has 5 bytes"):
        AuditKey.read(file)
    file.write_text("k" * 32 + "\n")
    assert AuditKey.read(file).digest("line", b"x") == KEY.digest("line", b"x") != KEY.digest("head", b"x")
    file.chmod(0o604)
    with pytest.raises(AuditError, match="chmod 600"):
        AuditKey.read(file)


def test_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """Such as one whose name a file has."""
    (tmp_path / "audit").write_text("")
    with pytest.raises(AuditError, match="audit, the audit log, cannot be used"):
        AuditLog(tmp_path / "audit", KEY)
