"""The capacity plan's queue against the real server: times that it computes, and times of an open loop.

    python -m benchmarks.serving.capacity                        # some 30 minutes
    python -m benchmarks.serving.capacity --rounds 1 --closed 20 --open 60 --chart docs/images/capacity.png

A closed loop with 1, 2, 4 and 8 users gives what a host finishes with so many reports in flight: the figures that a
host has in deploy/capacity.yaml. From them deploy.queueing computes the p50 and p95 at several rates of arrivals, which
then are measured with Poisson arrivals. Writes capacity.json, capacity.md and the chart into --out.
"""

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import commit, describe_machine
from benchmarks.memory.process_memory import PeakMemory
from benchmarks.serving.__main__ import STORE
from benchmarks.serving.archives import SUBJECTS, Candidate, Workshop
from benchmarks.serving.runs import LENIENT, Figures, Plan, Runs, take_medians
from deploy.capacity import Host
from deploy.queueing import Pool
from launcher.local_server import LocalServer
from loadtests.chart import draw_panels
from loadtests.load import FEWEST_TOKENS, Load
from loadtests.payloads import make_small_image
from prelim_client.http_client import HttpClient
from terminal.arguments import CommandLine
from terminal.program import sign_of_life

IN_FLIGHT = (1, 2, 4, 8)
SHARES = (0.3, 0.5, 0.7, 0.85)
"""Rates of arrivals, as shares of what the server does at most."""


def measure_image(server: LocalServer, model: str, count: int = 20) -> float:
    """Median seconds in which an idle server reads and encodes one image."""
    client, image = HttpClient(server.url, server.key(), model), make_small_image(0).data
    # A different file each time, so that its features are not in the cache.
    timings = [client.report(image + f"image {number}".encode())["timing_ms"] for number in range(count)]
    return statistics.median(timing["preprocess"] + timing["vision"] for timing in timings) / 1000


def measure(runs: Runs, candidate: Candidate, tokens: int, plan: Plan) -> tuple[dict[int, Figures], list[Figures]]:
    """Closed loops by number of users, and open loops by SHARES; medians of rounds in which all take turns."""
    closed: dict[int, list[Figures]] = {users: [] for users in IN_FLIGHT}
    opened: dict[float, list[Figures]] = {share: [] for share in SHARES}
    for number in range(plan.rounds):
        for users, found in closed.items():
            load = Load(seconds=plan.closed, closed_loop=users, tokens=tokens, seed=number, **LENIENT)
            found.append(runs.run(candidate, f"{users} in flight", load))
        most = closed[IN_FLIGHT[-1]][0].reports_per_s
        for share, found in opened.items():
            load = Load(rate=share * most, seconds=plan.open, tokens=tokens, seed=100 + number, **LENIENT)
            found.append(runs.run(candidate, f"{share:.0%}", load))
    return {users: take_medians(found) for users, found in closed.items()}, [*map(take_medians, opened.values())]


def table(host: Host, opened: Sequence[Mapping[str, Any]]) -> str:
    """Computed and measured percentiles at each rate."""
    lines = ["| arrivals/s | utilization | p50 computed, s | measured | p95 computed, s | measured | requests |"]
    lines.append("|---|---|---|---|---|---|---|")
    for one in opened:
        pool = Pool(host.service, 1, one["offered"])
        cells = [
            f"{one['offered']:.2f}",
            f"{pool.utilization:.0%}",
            *(f"{value:.2f}" for value in (pool.percentile(0.5), one["p50"], pool.percentile(0.95), one["p95"])),
            f"{one['requests']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(host: Host, opened: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw computed percentiles as lines, and measured ones as points."""
    most = host.service.reports_per_s[-1]
    rates = np.linspace(0.05, 0.93, 40) * most
    with draw_panels(path, (6.5, 4.2)) as (panel,):
        for name, share, color in (("p50", 0.5, "#0b6e4f"), ("p95", 0.95, "#d1495b")):
            computed = [Pool(host.service, 1, rate).percentile(share) for rate in rates]
            panel.plot(rates, computed, color=color, label=f"{name}, computed")
            measured = [one[name] for one in opened]
            panel.plot([one["offered"] for one in opened], measured, "o", color=color, label=f"{name}, measured")
        panel.axvline(most, color="gray", linestyle=":", label="maximum throughput")
        panel.set_xlabel("arrivals per second")
        panel.set_ylabel("seconds from arrival to report")
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.25)
        panel.legend()


def bench(name: str, plan: Plan, out: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure one model; returns its entry of capacity.yaml, the closed loops and the open loops."""
    subject = SUBJECTS[name]
    candidate = subject.candidates[0]
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary, "store")
        Workshop(subject, Path(temporary), STORE).make(candidate, store)
        with LocalServer(store, check=False) as server, PeakMemory(server.pid, interval=5) as memory:
            with sign_of_life("starting the server"):
                server.wait_until_ready(candidate.served)
            image_s = measure_image(server, candidate.served)
            closed, opened = measure(Runs(server, subject.tokens, plan, out), candidate, subject.tokens, plan)
    entry = {
        "basis": "measured",
        "source": "python -m benchmarks.serving.capacity",
        "memory_gb": round(memory.peak.pss / 1e9, 1),
        "image_s": round(image_s, 4),
        "tokens": [FEWEST_TOKENS, subject.tokens],
        "reports_per_s": {users: round(figures.reports_per_s, 2) for users, figures in closed.items()},
    }
    return entry, [asdict(figures) for figures in closed.values()], [asdict(figures) for figures in opened]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", choices=SUBJECTS, default="demo", help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds in which all take turns (%(default)s)")
    parser.add_argument("--closed", type=float, default=30, help="seconds of each closed loop (%(default)s)")
    parser.add_argument("--open", type=float, default=120, help="seconds at each rate (%(default)s)")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of the results (%(default)s)")
    parser.add_argument("--chart", type=Path, help="the PNG; default: capacity.png in --out")
    given = parser.parse_args(arguments)
    plan, out = Plan(given.rounds, given.closed, given.open, given.patience), given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    entry, closed, opened = bench(given.model, plan, out / "capacity")
    host = Host.from_mapping(given.model, entry)
    record: dict[str, Any] = {"commit": commit(), "machine": describe_machine(), "settings": asdict(plan)}
    record |= {"entry": entry, "closed": closed, "open": opened}
    (out / "capacity.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (out / "capacity.md").write_text(f"{table(host, opened)}\n", encoding="utf-8")
    draw(host, opened, given.chart or out / "capacity.png")
    print(json.dumps(entry))
    print(table(host, opened))


if __name__ == "__main__":
    main()
