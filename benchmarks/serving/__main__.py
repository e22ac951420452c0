"""Throughput and latency through TorchServe: our in-flight batches, our dynamic batches, and a plain handler.

    python -m benchmarks.serving                                   # some 45 minutes
    python -m benchmarks.serving --models small --rounds 1 --closed 20 --open 30
    python -m benchmarks.serving --models system0 --rounds 1 --closed 90 --open 0     # published size, saturated only
    python -m benchmarks.serving --chart docs/images/latency-over-throughput.png

One server serves all candidates of a model, which take turns; waiting candidates are idle. Each is first saturated,
then gets Poisson arrivals at 30, 70 and 100 % of its maximum throughput. The first one and each other also get 70 % of
each other's maximum, so that they compare at the same rates. Load comes from Locust on the same cores. Writes
serving.json, serving.md and the chart into --out.
"""

import dataclasses
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.machine import ROOT, commit, describe_machine, measure_machine
from benchmarks.serving.archives import SUBJECTS, Candidate, Subject, Workshop
from benchmarks.serving.runs import Plan, Runs, measure_alone, take_medians
from benchmarks.serving.table import draw, markdown
from launcher.local_server import LocalServer
from terminal.arguments import CommandLine
from terminal.program import sign_of_life

STORE = ROOT / "build" / "bench" / "checkpoints"
SHARES = (0.3, 0.7, 1.0)
COMMON = 0.7
"""Share of one candidate's maximum throughput that the other gets too."""

ALONE_TOKENS, ALONE_COUNT = 48, 20


def bench(subject: Subject, plan: Plan, out: Path, folder: Path | None) -> dict[str, Any]:
    """Measure one model.

    folder  : temporary folder of the archives
    returns : its part of serving.json
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        workshop, store = Workshop(subject, Path(temporary), STORE), Path(temporary, "store")
        for candidate in subject.candidates:
            workshop.make(candidate, store)
        with LocalServer(store, check=False) as server:
            with sign_of_life("starting the server"):
                for candidate in subject.candidates:
                    server.wait_until_ready(candidate.served)
            ours = [candidate for candidate in subject.candidates if candidate.settings is not None]
            with sign_of_life("one request at a time"):
                single = measure_alone(server, ours, ALONE_TOKENS, ALONE_COUNT)
            runs = Runs(server, subject.tokens, plan, out)
            saturated = runs.saturate(subject.candidates)
            most = {name: take_medians(figures) for name, figures in saturated.items()}
            rates = offered_rates(subject.candidates, {name: figures.reports_per_s for name, figures in most.items()})
            offered = runs.offer(rates) if plan.open else {}
    return {
        "tokens": subject.tokens,
        "alone": {name: asdict(one) for name, one in single.items()},
        "saturated": {name: asdict(figures) for name, figures in most.items()},
        "offered": [
            {"candidate": name, "load": load, **asdict(take_medians(figures))}
            for (name, load), figures in offered.items()
        ],
        "rounds": {
            "saturated": {name: [asdict(one) for one in figures] for name, figures in saturated.items()},
            "offered": [
                {"candidate": name, "load": load, "runs": [asdict(one) for one in figures]}
                for (name, load), figures in offered.items()
            ],
        },
    }


def offered_rates(candidates: Sequence[Candidate], most: Mapping[str, float]) -> list[tuple[Candidate, str, float]]:
    """The rates of the open loops: candidate, name of the rate, requests per second.

    most : name of a candidate -> reports per second when saturated
    """
    rates = [
        (candidate, f"{share:.0%}", share * most[candidate.name])
        for candidate in candidates
        if candidate.offered
        for share in SHARES
    ]
    first, *others = (candidate for candidate in candidates if candidate.offered)
    for other in others:
        for given, of in ((first, other), (other, first)):
            rates.append((given, f"{COMMON:.0%} of {of.name}", COMMON * most[of.name]))
    return rates


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--models", nargs="+", choices=SUBJECTS, default=["small", "demo"], help="(small demo)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which all take turns (%(default)s)")
    parser.add_argument("--closed", type=float, default=30, help="seconds of saturation (%(default)s)")
    parser.add_argument("--open", type=float, default=60, help="seconds at each rate; 0 leaves these out (%(default)s)")
    parser.add_argument("--date", help="date to write into the results")
    parser.add_argument("--folder", type=Path, help="folder for temporary archives (default: the system's)")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of the results (%(default)s)")
    parser.add_argument("--chart", type=Path, help="the PNG; default: latency-over-throughput.png in --out")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.closed <= 0 or given.open < 0:
        parser.error("--rounds must be 1 or more, --closed above 0, --open 0 or more")
    plan, out = Plan(given.rounds, given.closed, given.open, given.patience), given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    threads = len(os.sched_getaffinity(0))
    record: dict[str, Any] = {
        "date": given.date,
        "commit": commit(),
        "machine": describe_machine(),
        "settings": {"threads": threads, **dataclasses.asdict(plan)},
        "floor": asdict(measure_machine(threads)),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torchserve", "torch", "transformers", "locust")}
        | {"onnxruntime": onnxruntime.__version__},
        "models": {},
    }
    for name in given.models:
        record["models"][name] = bench(SUBJECTS[name], plan, out / "serving", given.folder)
        (out / "serving.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
        (out / "serving.md").write_text(markdown(record), encoding="utf-8")
    print((out / "serving.md").read_text(encoding="utf-8"))
    if plan.open:
        draw(record, given.chart or out / "latency-over-throughput.png")


if __name__ == "__main__":
    main()
