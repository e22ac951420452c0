"""Outcomes of a run's requests, their summary, and the check against its limits."""

import dataclasses
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.load import Load
from loadtests.sender import Failed
from loadtests.traffic import PlannedRequest

SHED = "503 shed"


@dataclass(frozen=True)
class SentRequest:
    """One request.

    late    : seconds from its planned arrival to when it was sent; above 0 when the load generator is too slow
    latency : seconds from its planned arrival to its answer, or until it was given up; of a slow client from the end
              of its upload
    failure : None for the expected answer
    """

    request: PlannedRequest
    late: float
    latency: float
    failure: Failed | None = None

    @property
    def answered(self) -> float:
        """Seconds after the start of the run."""
        return self.request.due + self.latency

    @property
    def name(self) -> str:
        """Its group in the summary; shed requests are a separate group."""
        return SHED if self.failure is not None and self.failure.shed else self.request.name

    @property
    def is_report(self) -> bool:
        """Whether a correct report came back."""
        return self.failure is None and self.request.wants_report


@dataclass(frozen=True)
class RequestGroup:
    """One group of requests. Percentiles are in seconds, over the requests that did not fail; None when all failed."""

    transport: str
    name: str
    requests: int
    failures: int
    p50: float | None
    p95: float | None
    p99: float | None


NOTHING_SHED = RequestGroup("all", SHED, 0, 0, None, None, None)


@dataclass(frozen=True)
class Summary:
    """Summary of one run.

    rows             : by transport and name
    reports          : all requests for a report together, without those that must be refused
    requests         : number of requests sent or due; in a closed loop, of those answered within its window
    failure_rate     : share of failed requests, shed ones included
    reports_per_s    : correct reports per second, from the first planned arrival to the last answer; in a closed loop,
                       within its window
    late_p95         : 95th percentile of `SentRequest.late`, in seconds
    failures         : number of occurrences of each failure
    shed             : requests that were refused because of overload, and how long the refusals took
    drained_s        : seconds from the last planned arrival to the last answer
    """

    rows: tuple[RequestGroup, ...]
    reports: RequestGroup
    requests: int
    failure_rate: float
    reports_per_s: float
    late_p95: float
    failures: dict[str, int]
    shed: RequestGroup = NOTHING_SHED
    drained_s: float = 0.0

    @property
    def unexpected(self) -> int:
        """Failures that are not refusals because of overload."""
        return sum(self.failures.values()) - self.shed.requests


def summarize(outcomes: Sequence[SentRequest], window: tuple[float, float] = (0.0, math.inf)) -> Summary:
    """Summarize a run. Raises ValueError without any outcome.

    window : of `Load`; answers outside it are left out, failures are not
    """
    outcomes = [o for o in outcomes if o.failure is not None or window[0] <= o.answered <= window[1]]
    if not outcomes:
        raise ValueError("no request was sent: the load test proves nothing; raise --rate or --seconds")
    groups = sorted({(outcome.request.transport, outcome.name) for outcome in outcomes})
    rows = [_row(*group, [o for o in outcomes if (o.request.transport, o.name) == group]) for group in groups]
    failures = Counter(str(outcome.failure) for outcome in outcomes if outcome.failure is not None)
    first = min(outcome.request.at for outcome in outcomes)
    last = max(outcome.answered for outcome in outcomes)
    elapsed = last - first if math.isinf(window[1]) else window[1] - window[0]
    return Summary(
        rows=tuple(rows),
        reports=_row("all", "report", [o for o in outcomes if o.request.wants_report]),
        requests=len(outcomes),
        failure_rate=failures.total() / len(outcomes),
        reports_per_s=sum(outcome.is_report for outcome in outcomes) / max(elapsed, 1e-9),
        late_p95=percentile([outcome.late for outcome in outcomes], 0.95) or 0.0,
        failures=dict(failures.most_common()),
        shed=_times("all", SHED, [o.latency for o in outcomes if o.name == SHED], 0),
        drained_s=last - max(outcome.request.at for outcome in outcomes),
    )


def broken_limits(summary: Summary, load: Load) -> list[str]:
    """Describe the limits that the server broke; empty when it met all of them."""
    broken = []
    if summary.failure_rate > load.max_failure_rate:
        broken.append(f"failure rate is {summary.failure_rate:.4f}; allowed: {load.max_failure_rate:g}")
    if summary.reports.p95 is None:
        broken.append("no report came back")
    elif summary.reports.p95 > load.max_p95:
        broken.append(f"p95 is {summary.reports.p95:.3f} s; allowed: {load.max_p95:g} s")
    return broken


def tell(broken: Sequence[str]) -> int:
    """Print what does not hold; returns the exit code."""
    for line in broken:
        print(f"does not hold: {line}", file=sys.stderr)
    return 1 if broken else 0


def exit_code(summary: Summary, load: Load) -> int:
    """0 when the server met the limits of the load, else 1."""
    return 1 if broken_limits(summary, load) else 0


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of the values do not exceed (nearest rank); None without values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def table(summary: Summary) -> str:
    """The summary as a text table. Latencies are in seconds, from the planned arrival."""
    lines = [f"{'':5}{'':36}{'requests':>9}{'failures':>9}{'p50 s':>8}{'p95 s':>8}{'p99 s':>8}"]
    for row in (*summary.rows, summary.reports):
        numbers = "".join(
            f"{'-' if value is None else format(value, '.2f'):>8}" for value in (row.p50, row.p95, row.p99)
        )
        lines.append(f"{row.transport:5}{row.name:36}{row.requests:>9}{row.failures:>9}{numbers}")
    lines.append(f"reports per second {summary.reports_per_s:.2f}; failure rate {summary.failure_rate:.4f}")
    if summary.shed.requests:
        shed = summary.shed
        lines.append(f"{shed.requests} refusals took {shed.p50:.3f} s (p50), {shed.p99:.3f} s (p99)")
    lines.append(f"the load generator was late by {1000 * summary.late_p95:.0f} ms (p95)")
    lines += [f"{count} x {failure}" for failure, count in summary.failures.items()]
    return "\n".join(lines)


def to_json(summary: Summary, load: Load) -> dict[str, object]:
    """Load, summary and verdict as JSON values."""
    return {
        "load": dataclasses.asdict(load),
        **dataclasses.asdict(summary),
        "broken_limits": broken_limits(summary, load),
    }


def read_summary(path: Path) -> tuple[Summary, list[str]]:
    """Read the summary written by `to_json`, and the broken limits."""
    values = json.loads(path.read_text(encoding="utf-8"))
    numbers = {field.name: values[field.name] for field in dataclasses.fields(Summary)}
    numbers["rows"] = tuple(RequestGroup(**row) for row in values["rows"])
    numbers["reports"], numbers["shed"] = RequestGroup(**values["reports"]), RequestGroup(**values["shed"])
    return Summary(**numbers), values["broken_limits"]


def _row(transport: str, name: str, outcomes: Sequence[SentRequest]) -> RequestGroup:
    latencies = [outcome.latency for outcome in outcomes if outcome.failure is None]
    return _times(transport, name, latencies, len(outcomes) - len(latencies))


def _times(transport: str, name: str, latencies: Sequence[float], failures: int) -> RequestGroup:
    p50, p95, p99 = (percentile(latencies, share) for share in (0.5, 0.95, 0.99))
    return RequestGroup(transport, name, len(latencies) + failures, failures, p50, p95, p99)
