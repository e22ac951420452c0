"""Reading an audit log, which finds whatever was changed in it."""

import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prelim.audit.key import AuditKey
from prelim.audit.lines import FIRST, hash_of, open_line
from prelim.audit.log import HEAD, Head, part_of, parts_of
from prelim.errors import AuditError

Line = dict[str, Any]


def read_log(folder: Path, key: AuditKey, first: int = 1) -> Iterator[tuple[Line, str]]:
    """The lines of a log, each with its hash; a server may be appending to it.

    first : number of the first line, where older files were put away

    Raises AuditError, naming the file and the line, where one was changed, removed, added or put in another place, and
    at the end if lines are missing there.
    """
    head, sizes = _snapshot(folder, key)
    number, before = first, FIRST if first == 1 else None
    for path in parts_of(folder):
        if path not in sizes:
            break
        if path != part_of(folder, number):
            raise AuditError(f"{part_of(folder, number)} is missing before {path.name}")
        with path.open("rb") as file:
            while file.tell() < sizes[path]:
                line = file.readline()
                try:
                    # The line before the first file that is still here is only known by what this one says of it.
                    fields = open_line(line, number, before or _said_before(line), key)
                except AuditError as error:
                    raise AuditError(f"{path}, line {number}: {error}") from None
                number, before = number + 1, hash_of(line)
                yield fields, before
    if number - 1 != head.lines or (before or FIRST) != head.last:
        raise AuditError(f"{folder} ends after line {number - 1}, but {head.lines} lines were written")


def _snapshot(folder: Path, key: AuditKey) -> tuple[Head, dict[Path, int]]:
    """The head, and the sizes of the files while nobody writes."""
    try:
        with (folder / HEAD).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            head = Head.read(folder, file.read(), key)
            sizes = {path: path.stat().st_size for path in parts_of(folder)}
    except OSError as error:
        raise AuditError(f"{folder / HEAD} cannot be read ({error.strerror})") from None
    last = part_of(folder, head.part)
    if sizes.get(last, 0) != head.size:
        raise AuditError(f"{last} has {sizes.get(last, 0)} bytes, but {head.size} were written")
    return head, sizes


def _said_before(line: bytes) -> str:
    """What a line says is the hash of the line before; the seal, which is checked later, vouches for it."""
    _, _, rest = line.partition(b',"before":"')
    return rest[:64].decode("ascii", "replace")
