"""Twice the load that a server can carry: what is refused, what is answered, and how soon it is over.

    python -m loadtests.overload --archive model_store/demo.mar                  # finds the saturation rate, 5 minutes
    python -m loadtests.overload --archive model_store/demo.mar --saturation 4.5 --seconds 60

Starts the server with its gateway on free ports. The saturation rate is that of `loadtests.sweep` for steady arrivals,
over HTTP and gRPC alike. Exits with 1 unless

- 99 % of the refusals take less than 100 ms,
- 95 % of the reports take at most 1.5 times what they take at the saturation rate,
- nothing fails but for refusals, and
- within 10 s after the last arrival all is answered, and a lone request takes at most twice its time of before.

Writes overload.json into --out.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.load import Load
from loadtests.outcomes import Summary, read_summary, tell
from loadtests.run import run_load
from loadtests.site import Site, open_site
from loadtests.sweep import REQUESTS, Sweep
from terminal.arguments import CommandLine

MAX_REFUSAL_S = 0.1
MAX_P95_FACTOR = 1.5
MAX_RECOVERY_S = 10.0
MAX_LONE_FACTOR = 2.0
GRPC_SHARE = 0.4
LONE_S = 10.0


@dataclass(frozen=True)
class Findings:
    """What an overload showed. Times are in seconds.

    saturation      : requests per second
    p95_saturated   : of reports at the saturation rate
    p95             : of reports under twice that rate
    refusals        : requests that were refused
    refusal_p99     : of their answers; None without any
    failures        : requests that failed otherwise
    recovery        : from the last arrival to the last answer
    lone_before, lone_after : median of a request on the idle server, before and right after
    """

    saturation: float
    p95_saturated: float
    p95: float
    reports: int
    refusals: int
    refusal_p99: float | None
    failures: int
    recovery: float
    lone_before: float
    lone_after: float

    def broken(self) -> list[str]:
        """What does not hold."""
        found = []
        if self.refusal_p99 is None:
            found.append("nothing was refused: the rate is not above what the server carries")
        elif self.refusal_p99 >= MAX_REFUSAL_S:
            found.append(
                f"p99 of refusals is {1000 * self.refusal_p99:.0f} ms; allowed: below {1000 * MAX_REFUSAL_S:.0f}"
            )
        if self.p95 > MAX_P95_FACTOR * self.p95_saturated:
            found.append(
                f"p95 of reports is {self.p95:.2f} s; allowed: {MAX_P95_FACTOR:g} times {self.p95_saturated:.2f} s"
            )
        if self.failures:
            found.append(f"{self.failures} requests failed without a refusal")
        if self.recovery > MAX_RECOVERY_S:
            found.append(
                f"the last answer came {self.recovery:.1f} s after the last arrival; allowed: {MAX_RECOVERY_S:g}"
            )
        if self.lone_after > MAX_LONE_FACTOR * self.lone_before:
            found.append(f"a lone request takes {self.lone_after:.2f} s afterwards; {self.lone_before:.2f} s before")
        return found


def overload(site: Site, model: str, saturation: float, seconds: float, out: Path) -> Findings:
    """Measure at the saturation rate, then at twice that for so many seconds."""

    def run(**values: Any) -> Summary:
        load = Load(max_failure_rate=1.0, max_p95=1e6, scenario="steady", grpc_share=GRPC_SHARE)
        run_load(site, model, dataclasses.replace(load, **values), out)
        return read_summary(out / "summary.json")[0]

    def p95(summary: Summary) -> float:
        return float("inf") if summary.reports.p95 is None else summary.reports.p95

    def lone() -> float:
        return run(closed_loop=1, seconds=LONE_S).reports.p50 or float("inf")

    lone_before = lone()
    saturated = run(rate=saturation, seconds=max(60.0, 1.2 * REQUESTS / saturation), seed=1)
    twice = run(rate=2 * saturation, seconds=seconds, seed=2)
    return Findings(
        saturation=saturation,
        p95_saturated=p95(saturated),
        p95=p95(twice),
        reports=twice.reports.requests - twice.reports.failures,
        refusals=twice.shed.requests,
        refusal_p99=twice.shed.p99,
        failures=twice.unexpected,
        recovery=twice.drained_s,
        lone_before=lone_before,
        lone_after=lone(),
    )


def find_saturation(site: Site, model: str, out: Path) -> float:
    """Of steady arrivals over HTTP. Raises SystemExit if no rate is held."""
    held = [step.rate for step in Sweep(site, model, out).climb("steady", "HTTP") if step.held]
    if not held:
        raise SystemExit("no rate was held; see loadtests.sweep")
    return max(held)


def main(given: Sequence[str] | None = None) -> int:
    """Command line; the exit code is 1 if something does not hold."""
    parser = CommandLine(__doc__)
    parser.add_argument("--archive", type=Path, default=Path("model_store/demo.mar"), help="(%(default)s)")
    parser.add_argument("--saturation", type=float, default=0, help="requests per second; 0 finds it (%(default)s)")
    parser.add_argument("--seconds", type=float, default=300, help="of twice that rate (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/overload"), help="folder of the results (%(default)s)")
    options = parser.parse_args(given)
    out = options.out.resolve()
    model = options.archive.stem
    with open_site(options.archive) as site:
        saturation = options.saturation or find_saturation(site, model, out)
        findings = overload(site, model, saturation, options.seconds, out)
    broken = findings.broken()
    facts = {
        **dataclasses.asdict(findings),
        "queue": site.queue,
        "seconds": options.seconds,
        "machine_load": os.getloadavg(),
        "broken": broken,
    }
    (out / "overload.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(
        f"saturation {saturation:.2f}/s (p95 {findings.p95_saturated:.2f} s); at twice that {findings.reports} reports "
        f"(p95 {findings.p95:.2f} s), {findings.refusals} refusals (p99 {findings.refusal_p99 or 0:.3f} s); last "
        f"answer {findings.recovery:.1f} s after the last arrival; a lone request {findings.lone_before:.2f} s before, "
        f"{findings.lone_after:.2f} s after"
    )
    return tell(broken)


if __name__ == "__main__":
    sys.exit(main())
