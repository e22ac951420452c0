"""An hour of load: nothing that a server holds grows with the requests that it has answered.

    make soak                 # an hour
    make soak MINUTES=10      # the short form

Starts the server with its gateway on free ports, finds how many mixed reports it writes with all slots busy, and sends
70 % of that. Looks at the processes every few seconds. Exits with 1 unless, in the last two thirds of the time,

- memory of worker, gateway and nginx does not rise by more than 2 %, nor their descriptors, threads and temporary files
  by more than 5 %,
- memory of the frontend stays below what `vmargs` in config.properties allow Java,
- logs are of bounded size and closed to other users, and
- nothing failed; at most 5 % of the requests, in bursts of arrivals, were refused.

Writes soak.csv, soak.png and the outcomes of the requests into --out.
"""

import contextlib
import csv
import dataclasses
import re
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from launcher.environment import ROOT
from launcher.ports import read_properties
from loadtests.chart import draw_panels
from loadtests.load import MAX_REQUESTS, Load
from loadtests.outcomes import read_summary, tell
from loadtests.processes import Sample, take_sample
from loadtests.run import run_load
from loadtests.site import Site, open_site
from terminal.arguments import CommandLine

SHARE = 0.7
SETTLED = 1 / 3
"""Share of the time after which everything that is loaded once has been loaded."""

MEMORY = ("worker_mb", "gateway_mb", "nginx_mb")
COUNTS = ("descriptors", "threads", "gateway_descriptors", "gateway_threads", "temporary_files")
RISES = dict.fromkeys(MEMORY, 0.02) | dict.fromkeys(COUNTS, 0.05)
"""Figure -> allowed rise over the rest of the time, as a share of its median."""

LEAST_RISE = {"worker_mb": 10.0, "gateway_mb": 2.0, "nginx_mb": 2.0} | dict.fromkeys(COUNTS, 5)
"""Rises that are allowed in any case: one process that reads an image has as many; nginx keeps buffers of a request."""

MAX_LOG_MB = 55.0
"""Logs are rotated at 50 MB or less."""

JAVA_ITSELF_MB = 400.0
"""Memory of Java besides heap and buffers: classes, compiled code, stacks of threads, the collector's tables."""

MAX_SHED = 0.05
"""At 70 % load 2 % of random arrivals find eight places taken (by processor sharing), more if large images meet."""

CALIBRATION_S = 60.0
PIECE_S = 600.0


def rise(samples: Sequence[Sample], name: str) -> float:
    """How much a figure rises over the samples, by the median slope of all pairs (Sen 1968, JASA 63:1379)."""
    points = [(sample.seconds, float(getattr(sample, name))) for sample in samples]
    slopes = [(b - a) / (later - earlier) for (earlier, a), (later, b) in combinations(points, 2) if later > earlier]
    return statistics.median(slopes) * (points[-1][0] - points[0][0]) if slopes else 0.0


def frontend_limit_mb(vmargs: str) -> float:
    """What Java's options allow it: heap, buffers outside of the heap, and itself. Raises ValueError without limits."""
    limits = []
    for option in ("-Xmx", "-XX:MaxDirectMemorySize="):
        found = re.search(rf"(?:^| ){re.escape(option)}(\d+)([mg])(?= |$)", vmargs)
        if found is None:
            raise ValueError(f"vmargs in config.properties have no {option}NUMBERm or g")
        limits.append(int(found[1]) * (1024 if found[2] == "g" else 1))
    return sum(limits) + JAVA_ITSELF_MB


def judge(samples: Sequence[Sample], frontend_limit: float) -> list[str]:
    """What does not hold; empty if all does."""
    settled = [sample for sample in samples if sample.seconds >= SETTLED * samples[-1].seconds]
    broken = []
    for name, share in RISES.items():
        level = statistics.median(getattr(sample, name) for sample in settled)
        allowed = max(share * level, LEAST_RISE[name])
        if (found := rise(settled, name)) > allowed:
            broken.append(f"{name} rises by {found:.1f} from about {level:.0f}; allowed: {allowed:.1f}")
    highest = max(sample.frontend_mb for sample in samples)
    if highest > frontend_limit:
        broken.append(f"frontend_mb is {highest:.0f}; allowed: {frontend_limit:.0f}")
    largest = max(sample.largest_log_mb for sample in samples)
    if largest > MAX_LOG_MB:
        broken.append(f"largest_log_mb is {largest:.0f}; allowed: {MAX_LOG_MB:.0f}")
    if open_logs := max(sample.open_logs for sample in samples):
        broken.append(f"open_logs is {open_logs}: other users may read them")
    return broken


@contextlib.contextmanager
def sampling(site: Site, every: float) -> Iterator[list[Sample]]:
    """Look at the server regularly; yields the samples."""
    samples: list[Sample] = []
    done, begun = threading.Event(), time.monotonic()

    def watch() -> None:
        while not done.is_set():
            if (sample := take_sample(site.server, site.gateway, begun)) is not None:
                samples.append(sample)
            done.wait(every)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


def soak(site: Site, model: str, minutes: float, rate: float, out: Path) -> tuple[list[Sample], list[str]]:
    """Load a server; returns the samples, and what failed."""
    failures: list[str] = []
    piece = min(PIECE_S, 0.9 * MAX_REQUESTS / rate)
    with sampling(site, every=max(1.0, minutes / 10)) as samples:
        left, number = 60 * minutes, 0
        while left > 0:
            load = Load(rate=rate, seconds=min(piece, left), seed=number, max_failure_rate=0.0, max_p95=1e6)
            folder = out / f"piece{number}"
            run_load(site, model, load, folder)
            summary = read_summary(folder / "summary.json")[0]
            if summary.unexpected or summary.shed.requests > MAX_SHED * summary.requests:
                failures.append(f"of {summary.requests} requests failed: {summary.failures}")
            left, number = left - load.seconds, number + 1
    return samples, failures


def calibrate(site: Site, model: str, out: Path) -> float:
    """Mixed reports per second with all slots busy."""
    slots = site.throughput.slots
    load = Load(closed_loop=slots, seconds=CALIBRATION_S, max_failure_rate=1.0, max_p95=1e6)
    run_load(site, model, load, out)
    return read_summary(out / "summary.json")[0].reports_per_s


def write_csv(samples: Sequence[Sample], path: Path) -> None:
    """All samples as a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Sample)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(sample) for sample in samples)


def draw(samples: Sequence[Sample], path: Path, frontend_limit: float) -> None:
    """Memory, counts and logs over time."""
    minutes = [sample.seconds / 60 for sample in samples]
    panels_of = {
        "memory, MB": ("worker_mb", "frontend_mb"),
        "memory of the gateway, MB": ("gateway_mb", "nginx_mb"),
        "counts": COUNTS,
        "logs, MB": ("logs_mb",),
    }
    with draw_panels(path, (4.5, 3.5), count=len(panels_of)) as panels:
        for panel, (title, names) in zip(panels, panels_of.items(), strict=True):
            for name in names:
                panel.plot(minutes, [getattr(sample, name) for sample in samples], label=name)
            panel.set(title=title, xlabel="minutes")
            panel.set_ylim(bottom=0)
            panel.legend()
        panels[0].axhline(frontend_limit, linestyle=":", color="gray")


def main(given: Sequence[str] | None = None) -> int:
    """Command line; the exit code is 1 if something does not hold."""
    parser = CommandLine(__doc__)
    parser.add_argument("--archive", type=Path, default=Path("model_store/demo.mar"), help="(%(default)s)")
    parser.add_argument("--minutes", type=float, default=60, help="(%(default)s)")
    parser.add_argument("--rate", type=float, default=0, help="requests per second; 0: 70 %% of the most (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/soak"), help="folder of the results (%(default)s)")
    options = parser.parse_args(given)
    out, model = options.out.resolve(), options.archive.stem
    out.mkdir(parents=True, exist_ok=True)
    limit = frontend_limit_mb(read_properties(ROOT / "config.properties")["vmargs"])
    with open_site(options.archive) as site:
        rate = options.rate or SHARE * calibrate(site, model, out / "calibration")
        print(f"{rate:.2f} requests/s for {options.minutes:g} minutes", flush=True)
        samples, failures = soak(site, model, options.minutes, rate, out)
    write_csv(samples, out / "soak.csv")
    draw(samples, out / "soak.png", limit)
    broken = judge(samples, limit) + failures
    first, last = samples[0], samples[-1]
    settled = [sample for sample in samples if sample.seconds >= SETTLED * last.seconds]
    print(
        f"worker {first.worker_mb:.0f} to {last.worker_mb:.0f} MB ({rise(settled, 'worker_mb'):+.1f} when settled), "
        f"frontend {first.frontend_mb:.0f} to {last.frontend_mb:.0f} MB (limit {limit:.0f}), "
        f"gateway {first.gateway_mb:.1f} to {last.gateway_mb:.1f} MB ({rise(settled, 'gateway_mb'):+.1f}), "
        f"nginx {first.nginx_mb:.1f} to {last.nginx_mb:.1f} MB ({rise(settled, 'nginx_mb'):+.1f}), "
        + ", ".join(f"{name} {getattr(first, name)} to {getattr(last, name)}" for name in COUNTS)
        + f", logs {last.logs_mb:.1f} MB"
    )
    return tell(broken)


if __name__ == "__main__":
    sys.exit(main())
