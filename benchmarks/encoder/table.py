"""Rounds in which all runners of a network take turns, and their table."""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.decode.table import number
from benchmarks.encoder.runners import Runner
from benchmarks.machine import QUIET_CORES, busy_seconds
from prelim.encoding.onnx_session import Array

TURN_S = 0.3
"""Minimum seconds of a turn: a fast network runs several times, because its first call finds cold caches."""


@dataclass
class Timing:
    """The turns of one runner.

    seconds    : fastest call of each turn
    difference : largest difference from the served output, relative to the largest output; None for the floor
    foreign    : CPU seconds of other processes during its turns, which took `elapsed` seconds
    reason     : why there are no figures
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    difference: float | None = None
    foreign: float = 0.0
    elapsed: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class EncoderRow:
    """Milliseconds per batch.

    times  : ratio to the served network, the median over the rounds: the speed of a shared machine varies more between
             rounds than within one
    foreign_cores : mean number of cores used by other processes
    reason : why there are no figures
    """

    name: str
    median: float | None = None
    best: float | None = None
    times: float | None = None
    difference: float | None = None
    foreign_cores: float = 0.0
    reason: str = ""


def measure(runners: Sequence[Runner], batch: Array, rounds: int, progress: Callable[[str], None]) -> list[Timing]:
    """Let all runners take turns, after a warm-up round. The first runner is the served one."""
    timings = [Timing(runner.name, reason=runner.reason) for runner in runners]
    calls = [1] * len(runners)
    reference: Array | None = None
    for turn in range(rounds + 1):
        for i, (runner, timing) in enumerate(zip(runners, timings, strict=True)):
            if runner.run is None or timing.reason:
                continue
            progress(f"round {turn}/{rounds}: {runner.name}")
            began, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
            try:
                output = runner.run(batch)
                taken = min(_seconds(runner.run, batch) for _ in range(calls[i]))
            except RuntimeError as error:
                # torch.compile without a working compiler, or ONNX Runtime without an operator.
                timing.reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                continue
            if turn == 0:
                reference = output if reference is None else reference
                if not runner.floor:
                    timing.difference = float(np.abs(output - reference).max() / np.abs(reference).max())
                calls[i] = max(1, math.ceil(TURN_S / taken) - 1)
            else:
                timing.seconds.append(taken)
                timing.foreign += busy_seconds() - busy - (time.process_time() - own)
                timing.elapsed += time.perf_counter() - began
    return timings


def _seconds(run: Callable[[Array], Array], batch: Array) -> float:
    began = time.perf_counter()
    run(batch)
    return time.perf_counter() - began


def rows(timings: Sequence[Timing]) -> list[EncoderRow]:
    """Make the rows of the table; the first timing is the served one."""
    return [
        EncoderRow(
            timing.name,
            median=1e3 * statistics.median(timing.seconds),
            best=1e3 * min(timing.seconds),
            times=statistics.median(a / b for a, b in zip(timing.seconds, timings[0].seconds, strict=True)),
            difference=timing.difference,
            foreign_cores=max(0.0, timing.foreign / timing.elapsed) if timing.elapsed else 0.0,
        )
        if timing.seconds and not timing.reason
        else EncoderRow(timing.name, reason=timing.reason)
        for timing in timings
    ]


def table(found: Sequence[EncoderRow]) -> str:
    """The rows as Markdown; notes below give the reasons for missing figures."""
    lines = ["| | ms, median | best | times the default | largest difference |", "|---|---|---|---|---|"]
    for row in found:
        if row.median is None:
            lines.append(f"| {row.name} |" + " – |" * 4)
            continue
        star = "\\*" if row.foreign_cores > QUIET_CORES else ""
        cells = [number(row.median) + star, number(row.best), number(row.times)]
        cells.append("–" if row.difference is None else f"{row.difference:.0e}")
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    notes = [f"{row.name}: {row.reason}" for row in found if row.reason]
    disturbed = max(row.foreign_cores for row in found)
    if disturbed > QUIET_CORES:
        notes.append(f"\\* under other load: up to {disturbed:.1f} cores were busy with something else")
    return "\n".join(lines) + "".join(f"\n\n{note}" for note in notes)
