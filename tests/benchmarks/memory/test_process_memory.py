"""Properties of the memory figures."""

import ctypes
import gc
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.memory.process_memory import Memory, PeakMemory, memory_of_tree

SIZE = 64 * 2**20
HOLD = (
    "import sys, mmap; file = open(sys.argv[1], 'rb'); kept = {}; "
    "print(len(kept[::4096]), flush=True); sys.stdin.read()"
)


def _reader(path: Path, kept: str) -> "subprocess.Popen[bytes]":
    """Start a process that keeps a file in memory and prints a line when it is loaded."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(kept), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _growth(path: Path, kept: str) -> Memory:
    """Growth of memory by a second process that keeps the same file."""
    readers = []
    try:
        readers.append(_reader(path, kept))
        one = memory_of_tree(os.getpid())
        readers.append(_reader(path, kept))
        two = memory_of_tree(os.getpid())
    finally:
        for reader in readers:
            reader.communicate()
    return Memory(two.rss - one.rss, two.pss - one.pss, two.anonymous - one.anonymous)


def test_mapped_file_costs_a_second_process_nothing(tmp_path: Path) -> None:
    """PSS grows with a copy of a file, not with another mapping of it; RSS grows with both."""
    path = tmp_path / "weights"
    path.write_bytes(bytes(SIZE))
    mapped = _growth(path, "mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)")
    copied = _growth(path, "file.read()")

    assert mapped.rss > 0.9 * SIZE
    assert mapped.pss < 0.5 * SIZE
    assert copied.pss > 0.9 * SIZE
    assert copied.anonymous > 0.9 * SIZE


def test_peak_is_kept_after_the_memory_is_gone() -> None:
    """The peak includes memory that was freed before it is read."""
    # What other tests have freed would otherwise be given back in between.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = memory_of_tree(os.getpid())
    with PeakMemory(os.getpid()) as memory:
        held = mmap.mmap(-1, 2 * SIZE, flags=mmap.MAP_PRIVATE)
        for start in range(0, 2 * SIZE, mmap.PAGESIZE):
            held[start] = 1
        time.sleep(0.5)
        held.close()

    assert memory.peak.anonymous > before.anonymous + 1.5 * SIZE
    assert memory_of_tree(os.getpid()).anonymous < before.anonymous + 0.5 * SIZE
