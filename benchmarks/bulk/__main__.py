"""Throughput of a bulk job and of the saturated server: the same model, images and options, on the same cores.

    python -m benchmarks.bulk                                    # some 15 minutes
    python -m benchmarks.bulk --images 300 --rounds 1

A bulk job and two servers take turns: the server as it is packaged by default (in-flight batches, one worker with all
cores), and in the form that uses the cores best (dynamic batches, one worker a core). While one works, the others wait.
Each has to report on the same files. Time counts from the first report that is begun, after Ray has started, to the
last. CPU seconds are those of the job's processes or the server's, without the clients. Writes bulk.json and bulk.md
into --out.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.bulk.job_watch import JobSample, tree_cpu_s, watch_job
from benchmarks.machine import commit, describe_machine
from benchmarks.serving.archives import DYNAMIC, derive
from launcher.local_server import LocalServer
from loadtests.payloads import make_small_image
from prelim_client.http_client import HttpClient
from terminal.arguments import CommandLine
from terminal.program import sign_of_life

OPTIONS: Mapping[str, Any] = {"num_beams": 3}
USERS = 32
"""Open requests: twice as many as the server with a worker on each of two cores decodes together."""

EVERY_S = 0.5
"""Seconds between two looks at how far a turn is."""

MIN_IMAGES = 300
"""Files of a turn: some blocks for each worker."""

BULK = "bulk"
SERVED: Mapping[str, Mapping[str, Any]] = {
    "in_flight": {},
    "dynamic": {**DYNAMIC, "minWorkers": len(os.sched_getaffinity(0)), "maxWorkers": len(os.sched_getaffinity(0))},
}
"""Name of a server -> differences from our model-config.yaml."""


@dataclass(frozen=True)
class Rate:
    """What one turn reached.

    per_s     : reports a second
    per_cpu_s : reports a CPU second
    """

    per_s: float
    per_cpu_s: float


def rate_of(samples: Sequence[JobSample]) -> Rate:
    """The rate from when the first report is begun until the last one is there."""
    rows = samples[-1].rows
    first = next(sample for sample in samples if sample.working)
    last = next(sample for sample in samples if sample.rows == rows)
    return Rate(rows / (last.seconds - first.seconds), rows / (last.cpu_s - first.cpu_s))


def load_server(server: LocalServer, model: str, files: Sequence[Path]) -> list[JobSample]:
    """Send all files, with more open requests than the server decodes together; returns samples."""
    client = HttpClient(server.url, server.key(), model)
    samples: list[JobSample] = []
    began = time.monotonic()
    with ThreadPoolExecutor(USERS) as users:
        sent = [users.submit(lambda file: client.report(file.read_bytes(), **OPTIONS), file) for file in files]
        while samples[-1:] == [] or samples[-1].rows < len(files):
            time.sleep(EVERY_S)
            done = sum(one.done() for one in sent)
            samples.append(JobSample(time.monotonic() - began, done, 0, 0, tree_cpu_s(server.pid)))
        for one in sent:
            one.result()
    return samples


def run_bulk(archive: Path, files: Sequence[Path]) -> list[JobSample]:
    """Run a job over the folder of all files; returns samples."""
    with tempfile.TemporaryDirectory(prefix="prelim-") as folder:
        options = [f"--option={name}={value}" for name, value in OPTIONS.items()]
        arguments: list[str | Path] = [files[0].parent, Path(folder, "out"), "--model", archive, *options]
        return watch_job(arguments, Path(folder, "out"), EVERY_S)


def write_images(count: int, folder: Path) -> list[Path]:
    """Write files that all differ, so that no features come from a cache: ten pictures, each with its own tail."""
    pictures = [make_small_image(seed).data for seed in range(min(count, 10))]
    files = [folder / f"{number:06d}.png" for number in range(count)]
    for number, file in enumerate(files):
        # Bytes after the end of a PNG do not change the picture.
        file.write_bytes(pictures[number % len(pictures)] + f"{number}".encode())
    return files


def bench(archive: Path, images: int, rounds: int) -> dict[str, list[Rate]]:
    """Let all take turns; returns their rates by name, one for each round."""
    found: dict[str, list[Rate]] = {name: [] for name in (BULK, *SERVED)}
    with tempfile.TemporaryDirectory(prefix="prelim-") as temporary:
        store = Path(temporary, "store")
        store.mkdir()
        for name, settings in SERVED.items():
            derive(archive, store, name, settings)
        folder = Path(temporary, "images")
        folder.mkdir()
        files = write_images(images, folder)
        with LocalServer(store, check=False) as server:
            with sign_of_life("starting the server"):
                for name in SERVED:
                    server.wait_until_ready(name)
            for number in range(rounds):
                for name, rates in found.items():
                    with sign_of_life(f"round {number + 1}, {name}"):
                        samples = run_bulk(archive, files) if name == BULK else load_server(server, name, files)
                    rates.append(rate_of(samples))
                    print(f"round {number + 1}, {name}: {rates[-1].per_s:.2f} reports/s", flush=True)
    return found


def table(found: Mapping[str, Sequence[Rate]], cores: int) -> str:
    """Rates of all, and how many times those of each server a job reaches: median of the rounds, and best."""
    lines = [
        "| | reports/s/core, median | best | bulk / this, median | best | reports/CPU s, median | bulk / this |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rates in found.items():
        per_core = [rate.per_s / cores for rate in rates]
        # Round by round: what else the machine does changes between rounds more than within one.
        ratios = [bulk.per_s / rate.per_s for bulk, rate in zip(found[BULK], rates, strict=True)]
        efficient = [bulk.per_cpu_s / rate.per_cpu_s for bulk, rate in zip(found[BULK], rates, strict=True)]
        cells = [
            statistics.median(per_core),
            max(per_core),
            statistics.median(ratios),
            max(ratios),
            statistics.median(rate.per_cpu_s for rate in rates),
            statistics.median(efficient),
        ]
        lines.append(f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--archive", type=Path, default=Path("model_store/demo.mar"), help="(%(default)s)")
    parser.add_argument("--images", type=int, default=1000, help="files of a turn (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which all take turns (%(default)s)")
    parser.add_argument("--date", help="date to write into the results")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of the results (%(default)s)")
    given = parser.parse_args(arguments)
    if given.images < MIN_IMAGES or given.rounds < 1:
        parser.error(f"--images must be {MIN_IMAGES} or more, --rounds 1 or more")
    cores = len(os.sched_getaffinity(0))
    found = bench(given.archive.absolute(), given.images, given.rounds)
    record = {
        "date": given.date,
        "commit": commit(),
        "machine": describe_machine(),
        "settings": {"archive": given.archive.name, "images": given.images, "rounds": given.rounds, **OPTIONS},
        "rates": {name: [asdict(rate) for rate in rates] for name, rates in found.items()},
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "bulk.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    text = table(found, cores)
    (given.out / "bulk.md").write_text(f"{text}\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
