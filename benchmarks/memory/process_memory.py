"""Memory of a server and its workers together."""

import re
import threading
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType

import psutil

_INTERVAL_S = 0.1


@dataclass(frozen=True)
class Memory:
    """Resident memory of several processes, in bytes.

    rss       : a page shared by two of them counts twice
    pss       : a page shared by n processes counts 1/n in each, so the sum is the real memory
    anonymous : the part of pss not backed by a file, which workers never share
    largest   : most that one of them has had since it began, in rss
    """

    rss: int = 0
    pss: int = 0
    anonymous: int = 0
    largest: int = 0

    def __add__(self, other: "Memory") -> "Memory":
        largest = max(self.largest, other.largest)
        return Memory(self.rss + other.rss, self.pss + other.pss, self.anonymous + other.anonymous, largest)

    def highest(self, other: "Memory") -> "Memory":
        """The maximum of each figure."""
        return Memory(*map(max, astuple(self), astuple(other)))


def memory_of_tree(pid: int) -> Memory:
    """Memory of a process and its descendants, as counted by the kernel (Linux only)."""
    total = Memory()
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return total
    for process in processes:
        try:
            counted = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
            counted += Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has exited
        found = {name: 1024 * int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", counted, re.MULTILINE)}
        total += Memory(*(found.get(name, 0) for name in ("Rss", "Pss", "Pss_Anon", "VmHWM")))
    return total


class PeakMemory:
    """A context manager that samples the memory of a process and its descendants ten times a second.

    pid      : the process
    interval : seconds between samples
    peak     : maximum of each figure
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
