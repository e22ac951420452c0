"""Effect of single settings of in-flight and dynamic batching on throughput and latency.

    python -m benchmarks.serving.sweep                              # some 30 minutes
    python -m benchmarks.serving.sweep --vary steps_per_handle --model demo --rounds 1

One server serves the variants of a setting, which take turns. All get the same arrivals: --share of the first variant's
maximum throughput. Writes serving_sweep.json and serving_sweep.md into --out.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.machine import commit, describe_machine
from benchmarks.serving.__main__ import ALONE_COUNT, ALONE_TOKENS, STORE
from benchmarks.serving.archives import DYNAMIC, SUBJECTS, Candidate, Workshop
from benchmarks.serving.runs import Plan, Runs, measure_alone, take_medians
from benchmarks.serving.table import alone_table, table
from launcher.local_server import LocalServer
from terminal.arguments import CommandLine
from terminal.program import sign_of_life

VARIANTS: Mapping[str, Sequence[tuple[int, Mapping[str, Any]]]] = {
    # The served setting comes first: its throughput determines the load of the others.
    "steps_per_handle": [(8, {"prelim": {"steps_per_handle": steps}}) for steps in (8, 1, 4, 16, 32)],
    "batchSize": [(slots, {}) for slots in (8, 4, 16)],
    "maxBatchDelay": [(8, {"maxBatchDelay": delay}) for delay in (1, 20, 100)],
    "maxBatchDelay, dynamic": [(8, {**DYNAMIC, "maxBatchDelay": delay}) for delay in (1, 20, 100)],
}
"""Varied setting -> batchSize and differences from our model-config.yaml."""


def candidates(vary: str, precision: str) -> list[Candidate]:
    """Make the variants of a setting."""
    found = []
    for slots, settings in VARIANTS[vary]:
        name = vary.partition(",")[0]
        value = settings.get("prelim", settings).get(name, slots)
        served = f"sweep_{name}_{value}".lower()
        found.append(Candidate(f"{name} {value}", served, precision, settings, batch_size=slots))
    return found


def sweep(workshop: Workshop, vary: str, share: float, plan: Plan, out: Path) -> dict[str, Any]:
    """Measure the variants of one setting; returns its part of serving_sweep.json."""
    variants = candidates(vary, workshop.subject.candidates[0].precision)
    with tempfile.TemporaryDirectory() as temporary:
        for variant in variants:
            workshop.make(variant, Path(temporary))
        with LocalServer(Path(temporary)) as server:
            with sign_of_life("starting the server"):
                for variant in variants:
                    server.wait_until_ready(variant.served)
            with sign_of_life("one request at a time"):
                single = measure_alone(server, variants, ALONE_TOKENS, ALONE_COUNT)
            runs = Runs(server, workshop.subject.tokens, plan, out)
            most = {name: take_medians(figures) for name, figures in runs.saturate(variants).items()}
            rate = share * most[variants[0].name].reports_per_s
            offered = runs.offer([(variant, f"{share:.0%}", rate) for variant in variants])
    return {
        "alone": {name: asdict(one) for name, one in single.items()},
        "saturated": {name: asdict(figures) for name, figures in most.items()},
        "offered": [
            {"candidate": name, "load": load, **asdict(take_medians(figures))}
            for (name, load), figures in offered.items()
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--vary", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="(all)")
    parser.add_argument("--model", choices=SUBJECTS, default="small", help="(%(default)s)")
    parser.add_argument(
        "--share", type=float, default=0.7, help="share of the first variant's maximum throughput (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which all take turns (%(default)s)")
    parser.add_argument("--closed", type=float, default=25, help="seconds of saturation (%(default)s)")
    parser.add_argument("--open", type=float, default=40, help="seconds at that rate (%(default)s)")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of the results (%(default)s)")
    given = parser.parse_args(arguments)
    plan, out = Plan(given.rounds, given.closed, given.open, given.patience), given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "commit": commit(),
        "machine": describe_machine(),
        "model": given.model,
        "settings": {**asdict(plan), "share": given.share},
        "varied": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        workshop = Workshop(SUBJECTS[given.model], Path(temporary), STORE)
        for vary in given.vary:
            record["varied"][vary] = sweep(workshop, vary, given.share, plan, out / "sweep")
            (out / "serving_sweep.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
            (out / "serving_sweep.md").write_text(markdown(record), encoding="utf-8")
    print((out / "serving_sweep.md").read_text(encoding="utf-8"))


def markdown(record: Mapping[str, Any]) -> str:
    """The tables of all varied settings."""
    parts = [f"# Settings of batching, measured on the model {record['model']}"]
    for vary, found in record["varied"].items():
        parts += [f"## {vary}", table(found["saturated"], found["offered"]), alone_table(found["alone"])]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
