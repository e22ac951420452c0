"""Counts from outside how often a job reads each image: the kernel tells of every file of a folder that is opened.

A worker reads an image whenever it is about to decode it, so that no image is decoded more often than it is counted.
"""

import ctypes
import os
import select
import struct
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

_OPENED, _IS_FOLDER, _OVERFLOW = 0x20, 0x40000000, 0x4000  # inotify(7)
_EVENT = struct.Struct("iIII")


class Reads:
    """A context manager that counts what any process opens in a folder, by the names of the files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: Counter[str] = Counter()
        self._lost = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def counts(self) -> Counter[str]:
        """How often each file has been opened until now."""
        self._take()
        assert not self._lost, "the kernel could not keep all events"
        return self._counts.copy()

    def _run(self) -> None:
        # Two equal events that nobody has taken in between are one.
        while not self._ended.is_set():
            if select.select([self._events], [], [], 0.1)[0]:
                self._take()

    def _take(self) -> None:
        with self._lock:
            while select.select([self._events], [], [], 0)[0]:
                contents = os.read(self._events, 1 << 16)
                while contents:
                    _, mask, _, length = _EVENT.unpack_from(contents)
                    name = contents[_EVENT.size : _EVENT.size + length].rstrip(b"\0").decode()
                    contents = contents[_EVENT.size + length :]
                    self._lost |= bool(mask & _OVERFLOW)
                    if name and not mask & _IS_FOLDER:
                        self._counts[name] += 1

    def __enter__(self) -> Self:
        libc = ctypes.CDLL(None, use_errno=True)
        self._events = libc.inotify_init1(os.O_CLOEXEC)
        watch = libc.inotify_add_watch(self._events, bytes(self._folder), _OPENED)
        assert watch >= 0, os.strerror(ctypes.get_errno())
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        os.close(self._events)


class Kills:
    """What a job had written when it lost processes: none of it may be read again.

    reads : of its images, whose names without a suffix are the ids of the studies
    """

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._actors = 0
        self._kept: list[tuple[set[str], Counter[str]]] = []

    def note(self, written: set[str], actors: int) -> None:
        """Processes have been killed, so many actors among them; these studies have a row."""
        self._actors += actors
        self._kept.append((written, self._reads.counts()))

    def check(self, rows_in_hand: int) -> str:
        """Check, after the end, that only what actors had in hand was read twice; says how much that was."""
        counts = self._reads.counts()
        for written, before in self._kept:
            again = {name for name in counts if counts[name] > before[name] and Path(name).stem in written}
            assert not again, f"{len(again)} studies with a row were decoded again"
        twice = sum(count > 1 for count in counts.values())
        assert twice <= self._actors * rows_in_hand, f"{twice} studies were decoded twice"
        return f"{counts.total()} decodings of {len(counts)} images, {twice} of them more than once"
