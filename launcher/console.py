"""Write standard input into a file of bounded size; run next to a server for as long as it prints.

python launcher/console.py logs/console.log

A full file becomes console.1.log, which replaces the one before.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

LIMIT = 10_000_000
"""Bytes of a file; there are two."""

CHUNK = 1 << 16


def keep(source: int, path: Path, limit: int = LIMIT) -> None:
    """Copy an open file descriptor to a file until its end.

    limit : bytes after which a new file begins; at most one chunk more is written

    What cannot be written, as on a full disk, is lost: a server whose output nobody reads would stop.
    """
    size = 0
    while printed := os.read(source, CHUNK):
        with contextlib.suppress(OSError):
            if size >= limit:
                set_aside(path)
                size = 0
            with path.open("ab", buffering=0) as file:
                size += file.write(printed)


def start_writer(path: Path) -> "subprocess.Popen[bytes]":
    """Start a process that writes what it reads; it ends when the last process with its standard input has.

    path : the file; one that exists is set aside
    """
    # Before anybody prints: the output is searched for what went wrong in this start.
    set_aside(path)
    return subprocess.Popen(
        [sys.executable, "-I", __file__, str(path)],
        stdin=subprocess.PIPE,
        # It outlives the launcher: with its output open, `make start | cat` would not end.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def set_aside(path: Path) -> None:
    """Rename a file, so that an empty one begins."""
    if path.exists():
        path.replace(path.with_suffix(f".1{path.suffix}"))
    path.touch(mode=0o600)


if __name__ == "__main__":
    keep(sys.stdin.fileno(), Path(sys.argv[1]))
