"""One use of a file below a folder fails, as on a full or read-only disk: each in turn, whatever the code does."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.chmod")


@dataclass
class Failing:
    """Which use fails, and what has been seen.

    folder : where
    number : the first is 0; -1 lets all succeed
    code   : of the OSError
    reads  : whether reading counts, too
    count  : uses so far
    """

    folder: Path
    number: int
    code: int
    reads: bool
    count: int = 0

    def look(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Raise OSError if this is the one."""
        if event == "open":
            path, mode, flags = arguments
            is_use = self.reads or flags & WRITING or any(letter in (mode or "") for letter in "wax+")
        elif event in CHANGES:
            path, is_use = arguments[0], True
        else:
            return
        if is_use and isinstance(path, str | bytes | os.PathLike):
            name = os.fsdecode(path)
            if name.startswith(str(self.folder)):
                self.count += 1
                if self.count == self.number + 1:
                    raise OSError(self.code, os.strerror(self.code), name)


_active: list[Failing] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    for failing in _active:
        failing.look(event, arguments)


@contextmanager
def failing_file(folder: Path, number: int, code: int, *, reads: bool = False) -> Iterator[Failing]:
    """Let one use fail; yields what is seen."""
    # A hook of audits (PEP 578) stays for good.
    if _hook not in _added:
        sys.addaudithook(_hook)
        _added.append(_hook)
    _active.append(failing := Failing(folder, number, code, reads))
    try:
        yield failing
    finally:
        _active.clear()


_added: list[Any] = []
