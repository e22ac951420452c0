"""Raise the arrival rate on a running server until it breaks the objective, over HTTP and gRPC.

    make start
    python -m loadtests.sweep                                     # all scenarios, some three hours
    python -m loadtests.sweep --scenarios steady --objective 2    # p95 may be 2 s
    make stop

The objective is a limit on the 95th percentile of latency, by default five times the median of a lone request. Arrivals
are an open loop. A rate is held if p95 is within the objective and at most 0.1 % of the requests fail; the saturation
rate is the highest one that was held. Each rate has at least 200 requests. Writes sweep.csv and sweep.png into --out,
and prints one line for each scenario and transport.
"""

import csv
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.chart import draw_panels
from loadtests.load import SCENARIOS, Load
from loadtests.outcomes import RequestGroup, Summary, read_summary
from loadtests.run import Target, run_load
from terminal.arguments import CommandLine

TRANSPORTS = {"HTTP": 0.0, "gRPC": 1.0}
"""Transport -> share of requests over gRPC."""

OVER_HTTP = ("slow", "hangups")
"""Scenarios whose odd clients speak only HTTP."""

REQUESTS = 200
"""Fewest requests of one rate."""

MAX_FAILURE_RATE = 0.001
LONE_FACTOR = 5
FIRST_SHARE = 0.2
"""The first rate, as a share of what one request after the other makes."""

STEP = 1.25
MAX_STEPS = 20


@dataclass(frozen=True)
class Running:
    """A server that runs already."""

    url: str
    grpc_target: str
    key_file: Path


@dataclass(frozen=True)
class RateStep:
    """One rate. Percentiles are in seconds, over the `n` reports that came; None without any."""

    scenario: str
    transport: str
    rate: float
    n: int
    failures: int
    p50: float | None
    p95: float | None
    p99: float | None
    objective: float
    held: bool


@dataclass(frozen=True)
class Sweep:
    """Loads on one model.

    out       : folder of the load generator's output
    objective : seconds; 0 measures a lone request
    requests  : fewest requests of one rate
    """

    server: Target
    model: str
    out: Path
    objective: float = 0.0
    requests: int = REQUESTS

    def climb(self, scenario: str, transport: str) -> Iterator[RateStep]:
        """Yield rates until one is not held."""
        lone = self._lone(scenario, transport)
        objective = self.objective or LONE_FACTOR * lone
        rate = FIRST_SHARE / lone
        for number in range(MAX_STEPS):
            # The mean number of arrivals is a fifth above the fewest that count, so that chance does not take them.
            seconds = 1.2 * self.requests / rate
            load = self._load(scenario, transport, rate=rate, seconds=seconds, seed=number)
            summary = self._run(load)
            held = is_held(summary, objective)
            yield _step(scenario, transport, rate, summary.reports, objective, held)
            if not held:
                return
            rate *= STEP

    def _lone(self, scenario: str, transport: str) -> float:
        """Median seconds of a request on an idle server."""
        plain = "lengths" if scenario in ("mixed", "lengths") else "steady"
        summary = self._run(self._load(plain, transport, closed_loop=1, seconds=15.0))
        if summary.reports.p50 is None:
            raise SystemExit(
                f"the server gives no reports over {transport}: {next(iter(summary.failures), 'no answer')}"
            )
        return summary.reports.p50

    def _load(self, scenario: str, transport: str, **values: Any) -> Load:
        # The run itself passes every limit; the sweep judges.
        lenient = Load(max_failure_rate=1.0, max_p95=1e6, scenario=scenario, grpc_share=TRANSPORTS[transport])
        return dataclasses.replace(lenient, **values)

    def _run(self, load: Load) -> Summary:
        run_load(self.server, self.model, load, self.out)
        path = self.out / "summary.json"
        if not path.is_file():
            raise SystemExit(f"the load generator wrote no result; see {self.out / 'locust.log'}")
        return read_summary(path)[0]


def is_held(summary: Summary, objective: float) -> bool:
    """Whether a rate met the objective."""
    p95 = summary.reports.p95
    return p95 is not None and p95 <= objective and summary.failure_rate <= MAX_FAILURE_RATE


def _step(scenario: str, transport: str, rate: float, row: RequestGroup, objective: float, held: bool) -> RateStep:  # noqa: PLR0917
    answered = row.requests - row.failures
    return RateStep(scenario, transport, rate, answered, row.failures, row.p50, row.p95, row.p99, objective, held)


def summary_line(steps: Sequence[RateStep]) -> str:
    """The saturation rate of one scenario over one transport, and what ended the climb."""
    first, last = steps[0], steps[-1]
    held = [step for step in steps if step.held]
    name = f"{first.scenario}, {first.transport}"
    ended = f"{last.rate:.2f}/s: p95 {_seconds(last.p95)}, {last.failures} failures, n {last.n}"
    if not held:
        return f"{name}: no rate was held; {ended}; objective {first.objective:.2f} s"
    best = held[-1]
    above = f"above the rates that were tried ({ended})" if last.held else f"not held: {ended}"
    return (
        f"{name}: saturates at {best.rate:.2f} requests/s (p95 {_seconds(best.p95)}, n {best.n}); "
        f"objective {best.objective:.2f} s; {above}"
    )


def write_csv(steps: Sequence[RateStep], path: Path) -> None:
    """All rates as a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(RateStep)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(step) for step in steps)


def draw_chart(steps: Sequence[RateStep], path: Path) -> None:
    """p95 over the offered rate, a panel for each scenario."""
    scenarios = list(dict.fromkeys(step.scenario for step in steps))
    with draw_panels(path, (4, 3.5), count=len(scenarios), dpi=120) as panels:
        for panel, scenario in zip(panels, scenarios, strict=True):
            for transport in TRANSPORTS:
                shown = [s for s in steps if (s.scenario, s.transport) == (scenario, transport) and s.p95]
                if shown:
                    rates, waits = [s.rate for s in shown], [s.p95 for s in shown]
                    (line,) = panel.plot(rates, waits, marker="o", label=transport)
                    panel.axhline(shown[0].objective, linestyle=":", color=line.get_color())
            panel.set(title=scenario, xlabel="requests per second", ylabel="p95, seconds")
            panel.set_ylim(bottom=0)
            panel.legend()


def main(given: Sequence[str] | None = None) -> int:
    """Command line; the exit code is 1 if no rate was held somewhere."""
    parser = CommandLine(__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="HTTP address (%(default)s)")
    parser.add_argument("--grpc-target", default="127.0.0.1:7070", help="gRPC address (%(default)s)")
    parser.add_argument("--key-file", type=Path, default=Path("key_file.json"), help="of the server (%(default)s)")
    parser.add_argument("--model", default="demo", help="name of the served model (%(default)s)")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=SCENARIOS[1:], help="(all but mixed)")
    parser.add_argument("--transports", nargs="+", choices=TRANSPORTS, default=list(TRANSPORTS), help="(both)")
    parser.add_argument("--objective", type=float, default=0, help="seconds; 0: 5 times a lone request (%(default)s)")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="fewest requests of one rate (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/sweep"), help="folder of the results (%(default)s)")
    options = parser.parse_args(given)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    server = Running(options.url, options.grpc_target, options.key_file.resolve())
    sweep = Sweep(server, options.model, out / "runs", options.objective, options.requests)
    steps: list[RateStep] = []
    all_held = True
    for scenario in options.scenarios:
        for transport in options.transports:
            if scenario in OVER_HTTP and transport != "HTTP":
                continue
            climbed: list[RateStep] = []
            for step in sweep.climb(scenario, transport):
                climbed.append(step)
                # After every rate: a sweep takes long, and may be interrupted.
                write_csv([*steps, *climbed], out / "sweep.csv")
            steps += climbed
            all_held = all_held and climbed[0].held
            print(summary_line(climbed), flush=True)
            draw_chart(steps, out / "sweep.png")
    return 0 if all_held else 1


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


if __name__ == "__main__":
    sys.exit(main())
