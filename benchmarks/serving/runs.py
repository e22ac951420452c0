"""Runs of load on a server, and what they say."""

import math
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import busy_seconds, wait_until_quiet
from benchmarks.serving.archives import Candidate
from launcher.local_server import LocalServer
from loadtests.load import Load
from loadtests.outcomes import Summary, read_summary
from loadtests.payloads import make_small_image
from loadtests.run import run_load
from prelim_client.http_client import HttpClient

BEAMS = 3


@dataclass(frozen=True)
class Figures:
    """One run, or the medians of several.

    offered        : requests a second that arrived; None in a closed loop
    reports_per_s  : right reports
    p50, p95, p99  : seconds from planned arrival to report; None without reports
    requests       : of the run, and how many of them failed
    late_p95       : seconds that the load generator was late
    foreign_cores  : that were busy with neither server nor load generator
    """

    offered: float | None
    reports_per_s: float
    p50: float | None
    p95: float | None
    p99: float | None
    requests: float
    failures: float
    late_p95: float
    foreign_cores: float

    @classmethod
    def of(cls, summary: Summary, load: Load, foreign_cores: float) -> "Figures":
        """The figures of one run."""
        reports = summary.reports
        return cls(
            None if load.closed_loop else load.rate,
            summary.reports_per_s,
            *(reports.p50, reports.p95, reports.p99),
            reports.requests,
            reports.failures,
            summary.late_p95,
            foreign_cores,
        )


def middle(runs: Sequence[Figures]) -> Figures:
    """The median of each figure."""
    found: dict[str, Any] = {}
    for field in fields(Figures):
        values = [value for value in (getattr(run, field.name) for run in runs) if value is not None]
        found[field.name] = statistics.median(values) if values else None
    return Figures(**found)


@dataclass(frozen=True)
class Plan:
    """How long and how often.

    rounds  : in which all candidates take turns
    closed  : seconds of a closed loop
    open    : seconds of an open one
    patience : seconds to wait, before each run, for a machine that does nothing else
    """

    rounds: int
    closed: float
    open: float
    patience: float


_LENIENT: dict[str, Any] = {"grpc_share": 0.0, "max_failure_rate": 1.0, "max_p95": 1e6}
"""A benchmark says what is, and judges nothing."""


class Runs:
    """Loads the models of one server, and prints what came of it.

    tokens : of the longest report
    out    : folder for what the load generator writes
    """

    def __init__(self, server: LocalServer, tokens: int, plan: Plan, out: Path) -> None:
        self._server, self._tokens, self._plan, self._out = server, tokens, plan, out

    def saturate(self, candidates: Sequence[Candidate]) -> dict[str, list[Figures]]:
        """What each can do at most, by its name: twice as many users as it decodes together, so that some wait."""
        found: dict[str, list[Figures]] = {candidate.name: [] for candidate in candidates}
        for number in range(self._plan.rounds):
            for candidate in candidates:
                users = 2 * max(candidate.batch_size, 2)
                load = Load(seconds=self._plan.closed, closed_loop=users, tokens=self._tokens, seed=number, **_LENIENT)
                found[candidate.name].append(self._run(candidate, "saturated", load))
        return found

    def offer(self, offered: Sequence[tuple[Candidate, str, float]]) -> dict[tuple[str, str], list[Figures]]:
        """Fixed rates, by name of the candidate and of the rate; the same rate has the same arrivals.

        offered : candidate, name of the rate, requests a second
        """
        found: dict[tuple[str, str], list[Figures]] = {(candidate.name, share): [] for candidate, share, _ in offered}
        for number in range(self._plan.rounds):
            for candidate, share, rate in offered:
                load = Load(rate=rate, seconds=self._plan.open, tokens=self._tokens, seed=100 + number, **_LENIENT)
                found[candidate.name, share].append(self._run(candidate, share, load))
        return found

    def _run(self, candidate: Candidate, name: str, load: Load) -> Figures:
        """One run. Raises RuntimeError when the load generator has no result."""
        wait_until_quiet(self._plan.patience)
        before, began = _busy(self._server), time.perf_counter()
        out = self._out / candidate.served
        run_load(self._server, candidate.served, load, out)
        foreign = (_busy(self._server) - before) / (time.perf_counter() - began)
        path = out / "summary.json"
        if not path.is_file():
            raise RuntimeError(f"{candidate.name}: locust gave no result; its output is {out / 'locust.log'}")
        summary, _ = read_summary(path)
        figures = Figures.of(summary, load, max(0.0, foreign))
        p95 = math.nan if figures.p95 is None else figures.p95
        print(f"{candidate.name}, {name}: {figures.reports_per_s:.2f} reports/s, p95 {p95:.2f} s", flush=True)
        return figures


def _busy(server: LocalServer) -> float:
    """CPU seconds of the machine that went neither to the server, nor to this process and those that it waited for."""
    root = psutil.Process(server.pid)
    own = [process.cpu_times() for process in (root, *root.children(recursive=True), psutil.Process())]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return busy_seconds() - sum(t.user + t.system for t in own) - ended.ru_utime - ended.ru_stime


@dataclass(frozen=True)
class Alone:
    """A request that has the server for itself; milliseconds, medians.

    latency  : from sending it to having the report
    handler  : what the handler says, in `timing_ms`: from the request's arrival there to the report
    outside  : the difference, that of each request
    """

    tokens: int
    latency: float
    handler: float
    outside: float


def alone(server: LocalServer, candidates: Sequence[Candidate], tokens: int, count: int) -> dict[str, Alone]:
    """One request at a time to ours, in turns, by name of the candidate."""
    image = make_small_image(0).data
    asked: dict[str, list[tuple[float, float]]] = {candidate.name: [] for candidate in candidates}
    for number in range(count + 2):
        for candidate in candidates:
            client = HttpClient(server.url, server.key(), candidate.served, timeout=300)
            began = time.perf_counter()
            # Another file each time, so that its features are not known yet.
            options = {"num_beams": BEAMS, "min_new_tokens": tokens, "max_new_tokens": tokens}
            answer = client.report(image + f"alone {number}".encode(), **options)
            latency = 1e3 * (time.perf_counter() - began)
            if number >= 2:
                asked[candidate.name].append((latency, sum(answer["timing_ms"].values())))
    return {
        name: Alone(
            tokens,
            statistics.median(latency for latency, _ in pairs),
            statistics.median(handler for _, handler in pairs),
            statistics.median(latency - handler for latency, handler in pairs),
        )
        for name, pairs in asked.items()
    }
