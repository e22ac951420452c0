"""Write standard input into a file of bounded size; run next to a server for as long as it prints.

python launcher/console.py logs/console.log

A full file becomes console.1.log, which replaces the one before.
"""

import os
import sys
from pathlib import Path

LIMIT = 10_000_000
"""Bytes of a file; there are two."""

CHUNK = 1 << 16


def keep(source: int, path: Path, limit: int = LIMIT) -> None:
    """Copy an open file descriptor to a file until its end.

    limit : bytes after which a new file begins; at most one chunk more is written
    """
    while True:
        size = 0
        with path.open("ab", buffering=0) as file:
            while size < limit:
                printed = os.read(source, CHUNK)
                if not printed:
                    return
                size += file.write(printed)
        set_aside(path)


def set_aside(path: Path) -> None:
    """Rename a file, so that an empty one begins."""
    if path.exists():
        path.replace(path.with_suffix(f".1{path.suffix}"))
    path.touch()


if __name__ == "__main__":
    keep(sys.stdin.fileno(), Path(sys.argv[1]))
