"""A bulk job in a process of its own, and what it has done and taken at each moment."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from benchmarks.machine import ROOT


@dataclass(frozen=True)
class JobSample:
    """A job at one moment.

    seconds : since its start
    rows    : that are in the output
    driver  : resident bytes of its first process
    others  : resident bytes of Ray's processes and the workers
    cpu_s   : CPU seconds of all of them so far
    working : whether a worker has begun
    """

    seconds: float
    rows: int
    driver: int
    others: int
    cpu_s: float
    working: bool = True


class JobFailed(Exception):
    """A job ended with an error. The message is what it said."""


def watch_job(arguments: Sequence[str | Path], output: Path, every: float) -> list[JobSample]:
    """Run `python -m bulk ... OUTPUT` to its end; returns samples in order.

    arguments : of `python -m bulk`, OUTPUT among them
    every     : seconds between samples

    Raises JobFailed.
    """
    command = [sys.executable, "-m", "bulk", *map(str, arguments)]
    rows, samples, began = RowCount(output), [], time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as job:
        driver = psutil.Process(job.pid)
        while job.poll() is None:
            with suppress(psutil.NoSuchProcess):
                samples.append(_sample(driver, rows, began))
            time.sleep(every)
        said = job.stderr.read() if job.stderr is not None else ""
    if job.returncode:
        raise JobFailed(said.strip().splitlines()[-1] if said.strip() else f"exit code {job.returncode}")
    return samples


class RowCount:
    """Counts the rows of an output that grows; each file is read once."""

    def __init__(self, output: Path) -> None:
        self._folder, self._work = output / "reports", output / "work"
        self._known: dict[str, int] = {}

    def count(self) -> int:
        """Rows that are in the output now."""
        for part in self._folder.glob("*.parquet"):
            if part.name not in self._known:
                self._known[part.name] = pq.read_metadata(part).num_rows
        return sum(self._known.values())

    def begun(self) -> bool:
        """Whether a worker has begun a block, of which it leaves a note."""
        return bool(self._known) or any(self._work.glob("attempt-*"))


def read_summary(output: Path) -> dict[str, Any]:
    """The summary of a finished job."""
    summary: dict[str, Any] = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    return summary


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process and those below it, ended children included."""
    total = 0.0
    root = psutil.Process(pid)
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _sample(driver: psutil.Process, rows: RowCount, began: float) -> JobSample:
    others = 0
    for process in driver.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            others += process.memory_info().rss
    seconds = time.monotonic() - began
    return JobSample(seconds, rows.count(), driver.memory_info().rss, others, tree_cpu_s(driver.pid), rows.begun())
