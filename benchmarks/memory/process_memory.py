"""How much memory a server and its workers hold together."""

import re
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil

_INTERVAL_S = 0.1


@dataclass(frozen=True)
class Memory:
    """Resident memory of some processes, in bytes.

    rss       : a page that two of them share counts twice
    pss       : a page that n processes share counts 1/n in each: the sum is what the processes really hold
    anonymous : the part of pss that is behind no file, and so never shared between workers
    """

    rss: int = 0
    pss: int = 0
    anonymous: int = 0

    def __add__(self, other: "Memory") -> "Memory":
        return Memory(self.rss + other.rss, self.pss + other.pss, self.anonymous + other.anonymous)

    def highest(self, other: "Memory") -> "Memory":
        """The larger of each figure."""
        return Memory(max(self.rss, other.rss), max(self.pss, other.pss), max(self.anonymous, other.anonymous))


def memory_of_tree(pid: int) -> Memory:
    """The memory of a process and of all below it, as the kernel counts it (Linux only)."""
    total = Memory()
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for process in processes:
        try:
            counted = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue  # it has ended meanwhile
        found = {name: 1024 * int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB", counted, re.MULTILINE)}
        total += Memory(found.get("Rss", 0), found.get("Pss", 0), found.get("Pss_Anon", 0))
    return total


class PeakMemory:
    """A context manager that looks ten times a second at the memory of a process and of all below it.

    pid      : the process
    interval : seconds between two looks
    peak     : the highest that was seen of each figure
    """

    def __init__(self, pid: int, interval: float = _INTERVAL_S) -> None:
        self.pid = pid
        self.interval = interval
        self.peak = Memory()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak = self.peak.highest(memory_of_tree(self.pid))
            if self._over.wait(self.interval):
                return
