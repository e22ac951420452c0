"""How much more two serving hosts answer than one, each with one processor: reports of system 0's size.

python -m tests.hosts.throughput                     # five minutes, on an otherwise idle machine; needs root
python -m tests.hosts.throughput --seconds 30 --rounds 1

One host is asked at its own gateway, two through the gateway in front of them, in turns. The exit code is 1 if two
reach less than 1.7 times the throughput of one, or a report took under half a second.
"""

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import describe_machine
from benchmarks.serving.__main__ import STORE
from benchmarks.serving.archives import SUBJECTS, Workshop
from launcher.process import worker_seconds
from terminal.arguments import CommandLine
from tests.hosts.conftest import Farm, FarmBuilder, outcomes
from tests.hosts.network import Network, is_possible

USERS = 8
"""For each host: as many as it has slots."""

TOKENS = 128
ENOUGH = 1.7
SLOW_S = 0.5
SETTLING = 0.2
"""Part of the seconds that is not counted, while the first requests fill the slots."""


def main() -> int:
    """Measure; the exit code."""
    parser = CommandLine(__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each load")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    if not is_possible() or len(os.sched_getaffinity(0)) < 2:
        print("network namespaces need root, and two hosts two processors", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as temporary, Network() as network:
        folder = Path(temporary)
        subject = SUBJECTS["system0"]
        candidate = subject.candidates[0]
        (folder / "work").mkdir()
        Workshop(subject, folder / "work", STORE).make(candidate, folder / "store")
        farm = FarmBuilder(network, folder).build(folder / "store", candidate.served, pinned=True)
        for host in farm.serving:
            measure(farm, 5, USERS, host.address)
        one, two = [], []
        for number in range(arguments.rounds):
            one.append(measure(farm, arguments.seconds, USERS, farm.serving[number % 2].address))
            two.append(measure(farm, arguments.seconds, 2 * USERS))
    return show(one, two)


def measure(farm: Farm, seconds: float, users: int, front: str = "") -> dict[str, float]:
    """Figures of one load."""
    options = {"min_new_tokens": TOKENS, "max_new_tokens": TOKENS}
    before = cpu_seconds(farm)
    found = outcomes(farm.load(users, seconds, options, front))
    used = cpu_seconds(farm) - before
    failed = [one for one in found if one["status"] != 200]
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(found)} requests failed, the first with status {failed[0]['status']}"
        )
    begin = found[0]["begin"]
    ends = [one["begin"] + one["seconds"] - begin for one in found]
    counted = sum(SETTLING * seconds < end <= seconds for end in ends)
    return {
        "reports_per_s": counted / (seconds * (1 - SETTLING)),
        "fastest_s": min(one["seconds"] for one in found),
        "p50_s": statistics.median(one["seconds"] for one in found),
        "reports_per_cpu_s": len(found) / used,
    }


def cpu_seconds(farm: Farm) -> float:
    """CPU time that the serving hosts have used."""
    return sum(worker_seconds(psutil.Process(host.processes[0].pid)) for host in farm.serving)


def show(one: list[dict[str, float]], two: list[dict[str, float]]) -> int:
    """Print the figures; the exit code."""
    rates = [statistics.mean(run["reports_per_s"] for run in runs) for runs in (one, two)]
    # Other programs take processor time from two hosts that one would leave to them.
    costs = [statistics.mean(run["reports_per_cpu_s"] for run in runs) for runs in (one, two)]
    fastest = min(run["fastest_s"] for run in (*one, *two))
    ratio = rates[1] / rates[0]
    figures: dict[str, Any] = {"one": one, "two": two, "ratio": round(ratio, 2), "machine": describe_machine()}
    print(json.dumps(figures, indent=1, default=str))
    print(f"one host {rates[0]:.2f} reports/s, two {rates[1]:.2f}: {ratio:.2f} times (at least {ENOUGH} wanted)")
    print(
        f"each for a second of processor time: {costs[0]:.3f} and {costs[1]:.3f}, {2 * costs[1] / costs[0]:.2f} times"
    )
    return 0 if ratio >= ENOUGH and fastest > SLOW_S else 1


if __name__ == "__main__":
    sys.exit(main())
