"""Load runs on a server, and their figures."""

import math
import resource
import statistics
import time
from collections.abc import Mapping, Sequence
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
from terminal.program import sign_of_life

BEAMS = 3


@dataclass(frozen=True)
class Figures:
    """Figures of one run, or medians of several.

    offered        : arrivals per second; None in a closed loop
    reports_per_s  : correct reports per second
    p50, p95, p99  : seconds from planned arrival to report; None without reports
    requests       : number of requests; `failures` is the number of failed ones
    late_p95       : 95th percentile of the load generator's lateness, in seconds
    foreign_cores  : mean number of cores used by neither server nor load generator
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


def take_medians(runs: Sequence[Figures]) -> Figures:
    """Take the median of each figure."""
    found: dict[str, Any] = {}
    for field in fields(Figures):
        values = [value for value in (getattr(run, field.name) for run in runs) if value is not None]
        found[field.name] = statistics.median(values) if values else None
    return Figures(**found)


@dataclass(frozen=True)
class Plan:
    """Number and length of the runs.

    rounds  : rounds in which all candidates take turns
    closed  : seconds of a closed loop
    open    : seconds of an open loop
    patience : maximum seconds to wait, before each run, for an idle machine
    """

    rounds: int
    closed: float
    open: float
    patience: float


LENIENT: dict[str, Any] = {"grpc_share": 0.0, "max_failure_rate": 1.0, "max_p95": 1e6}
"""Limits that always pass, because a benchmark only measures."""


class Runs:
    """Runs loads on the models of one server and prints the figures.

    tokens : maximum length of a report
    out    : folder for the output of the load generator
    """

    def __init__(self, server: LocalServer, tokens: int, plan: Plan, out: Path) -> None:
        self._server, self._tokens, self._plan, self._out = server, tokens, plan, out

    def saturate(self, candidates: Sequence[Candidate]) -> dict[str, list[Figures]]:
        """Measure maximum throughput, by name: with twice as many users as are decoded together, so that some wait."""
        found: dict[str, list[Figures]] = {candidate.name: [] for candidate in candidates}
        for number in range(self._plan.rounds):
            for candidate in candidates:
                users = 2 * max(candidate.batch_size, 2)
                load = Load(seconds=self._plan.closed, closed_loop=users, tokens=self._tokens, seed=number, **LENIENT)
                found[candidate.name].append(self.run(candidate, "saturated", load))
        return found

    def offer(self, offered: Sequence[tuple[Candidate, str, float]]) -> dict[tuple[str, str], list[Figures]]:
        """Run fixed rates, by name of the candidate and of the rate; the same rate has the same arrivals.

        offered : candidate, name of the rate, requests per second
        """
        found: dict[tuple[str, str], list[Figures]] = {(candidate.name, share): [] for candidate, share, _ in offered}
        for number in range(self._plan.rounds):
            for candidate, share, rate in offered:
                load = Load(rate=rate, seconds=self._plan.open, tokens=self._tokens, seed=100 + number, **LENIENT)
                found[candidate.name, share].append(self.run(candidate, share, load))
        return found

    def run(self, candidate: Candidate, name: str, load: Load) -> Figures:
        """Run one load. Raises RuntimeError if the load generator writes no result."""
        with sign_of_life("waiting for a quiet machine"):
            wait_until_quiet(self._plan.patience)
        before, began = _busy(self._server), time.perf_counter()
        out = self._out / candidate.served
        run_load(self._server, candidate.served, load, out)
        foreign = (_busy(self._server) - before) / (time.perf_counter() - began)
        path = out / "summary.json"
        if not path.is_file():
            raise RuntimeError(f"{candidate.name}: locust wrote no result; see {out / 'locust.log'}")
        summary, _ = read_summary(path)
        figures = Figures.of(summary, load, max(0.0, foreign))
        p95 = math.nan if figures.p95 is None else figures.p95
        print(f"{candidate.name}, {name}: {figures.reports_per_s:.2f} reports/s, p95 {p95:.2f} s", flush=True)
        return figures


def _busy(server: LocalServer) -> float:
    """CPU seconds of the machine outside the server, this process and its finished child processes."""
    root = psutil.Process(server.pid)
    own = [process.cpu_times() for process in (root, *root.children(recursive=True), psutil.Process())]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return busy_seconds() - sum(t.user + t.system for t in own) - ended.ru_utime - ended.ru_stime


@dataclass(frozen=True)
class Alone:
    """One request at a time on an idle server; median milliseconds.

    latency  : from sending the request to receiving the report
    handler  : sum of the answer's `timing_ms`: from the request's arrival at the handler to the report
    outside  : the difference, taken for each request
    """

    tokens: int
    latency: float
    handler: float
    outside: float


def measure_alone(server: LocalServer, candidates: Sequence[Candidate], tokens: int, count: int) -> dict[str, Alone]:
    """Send one request at a time to our candidates, in turns; returns results by name of the candidate."""
    asked = ask_in_turns(server, {candidate.name: candidate.served for candidate in candidates}, tokens, count)
    found: dict[str, Alone] = {}
    for name, answers in asked.items():
        pairs = [(latency, sum(answer["timing_ms"].values())) for latency, answer in answers]
        found[name] = Alone(
            tokens,
            statistics.median(latency for latency, _ in pairs),
            statistics.median(handler for _, handler in pairs),
            statistics.median(latency - handler for latency, handler in pairs),
        )
    return found


def ask_in_turns(
    server: LocalServer, served: Mapping[str, str], tokens: int, count: int
) -> dict[str, list[tuple[float, Mapping[str, Any]]]]:
    """Send one request at a time, A B C, A B C, ...: name -> milliseconds and answer of each, without the first two.

    served : name -> name of the model in TorchServe
    tokens : of each report, which has BEAMS beams
    """
    image = make_small_image(0).data
    asked: dict[str, list[tuple[float, Mapping[str, Any]]]] = {name: [] for name in served}
    for number in range(count + 2):
        for name, model in served.items():
            client = HttpClient(server.url, server.key(), model, timeout=300)
            began = time.perf_counter()
            # A different file each time, so that its features are not in the cache.
            options = {"num_beams": BEAMS, "min_new_tokens": tokens, "max_new_tokens": tokens}
            answer = client.report(image + f"alone {number}".encode(), **options)
            latency = 1e3 * (time.perf_counter() - began)
            if number >= 2:
                asked[name].append((latency, answer))
    return asked
