"""Time of one report through TorchServe, one request at a time: 8 bits, fp32, and a plain `generate` handler.

    python -m benchmarks.serving.alone
    python -m benchmarks.serving.alone --also 0.2.0=old.mar   # and another archive, such as an older version has made

System 0 at its published size, with 1 image, 3 beams and 24 tokens. Archives are made once, in build/bench/report;
after a change of what is packaged, remove that folder. One server has all of them; they take turns, A B C, A B C, ...
Writes alone.json and alone.md into --out.
"""

import json
import platform
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.decode.table import number
from benchmarks.machine import ROOT, commit, describe_machine, measure_machine, where_and_when
from benchmarks.serving.archives import SUBJECTS, Subject, Workshop
from benchmarks.serving.runs import BEAMS, ask_in_turns
from launcher.local_server import LocalServer
from terminal.arguments import CommandLine
from terminal.program import sign_of_life

CHECKPOINTS = ROOT / "build" / "bench" / "checkpoints"
STORE = ROOT / "build" / "bench" / "report"


def make_archives(subject: Subject, store: Path) -> None:
    """Make the archives that a folder lacks."""
    if all((store / f"{candidate.served}.mar").is_file() for candidate in subject.candidates):
        return
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.parent) as temporary:
        workshop = Workshop(subject, Path(temporary), CHECKPOINTS)
        for candidate in subject.candidates:
            workshop.make(candidate, store)


def bench(subject: Subject, others: Mapping[str, Path], count: int) -> dict[str, Any]:
    """Measure; returns name of a way to serve -> milliseconds of each request.

    others : name -> archive that is served as well
    """
    make_archives(subject, STORE)
    served = {candidate.name: candidate.served for candidate in subject.candidates}
    with tempfile.TemporaryDirectory(dir=STORE.parent) as temporary:
        store = Path(temporary)
        for candidate in subject.candidates:
            name = f"{candidate.served}.mar"
            (store / name).hardlink_to(STORE / name)
        for index, (name, archive) in enumerate(others.items()):
            served[name] = f"other{index}"
            shutil.copyfile(archive, store / f"{served[name]}.mar")
        with LocalServer(store, check=False) as server:
            with sign_of_life("starting the server"):
                for model in served.values():
                    server.wait_until_ready(model)
            with sign_of_life("one request at a time"):
                asked = ask_in_turns(server, served, subject.tokens, count)
    return {name: [latency for latency, _ in answers] for name, answers in asked.items()}


def table(found: Mapping[str, Sequence[float]]) -> str:
    """Medians in milliseconds, and the median over the rounds of the ratio to the first."""
    lines = ["| | ms, median | fastest | times the first |", "|---|---|---|---|"]
    first = next(iter(found.values()))
    for name, latencies in found.items():
        times = statistics.median(a / b for a, b in zip(latencies, first, strict=True))
        cells = " | ".join(map(number, (statistics.median(latencies), min(latencies), times)))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--count", type=int, default=20, help="requests to each (%(default)s)")
    parser.add_argument("--also", nargs="+", default=[], metavar="NAME=ARCHIVE", help="further archives of the model")
    parser.add_argument("--date", help="date to write into the results")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of the results (%(default)s)")
    given = parser.parse_args(arguments)
    others = {name: Path(path) for name, _, path in (one.partition("=") for one in given.also)}
    if given.count < 1 or not all(path.is_file() for path in others.values()):
        parser.error("--count must be 1 or more, and --also names of archives that are there, as NAME=ARCHIVE")
    subject, machine = SUBJECTS["report"], describe_machine()
    threads = machine["cores"]
    found = bench(subject, others, given.count)
    record = {
        "date": given.date,
        "commit": commit(),
        "machine": machine,
        "settings": {"threads": threads, "beams": BEAMS, "tokens": subject.tokens, "count": given.count},
        "floor": asdict(measure_machine(threads)),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torchserve", "torch", "transformers", "onnxruntime")},
        "milliseconds": found,
    }
    page = [
        "# One report through HTTP",
        where_and_when(record),
        f"System 0 at its published size, random weights: a PNG of some 50 kB, {BEAMS} beams, {subject.tokens} tokens.",
        table(found),
    ]
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "alone.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (given.out / "alone.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print((given.out / "alone.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
