"""Memory of a served model at its true size, with one worker and with several.

    python -m benchmarks.memory                                         # system 0, bf16, 1 and 2 workers
    python -m benchmarks.memory --workers 1 2 4 --precision fp32
    python -m benchmarks.memory --model models/demo                     # a model folder that exists

The archive is in dynamic batching: TorchServe's in-flight batching has requests wait where there are several workers
(docs/decisions/0009-workers-share-onnx-weights.md).

A checkpoint with random weights, under the published keys and of the published size, is written, imported, packaged and
served with the project's own commands; then the server is asked for reports, and the memory of all its processes is
watched meanwhile. Prints a Markdown table and writes --out as JSON. System 0 takes 7 GB of disk under --folder, 4 GB of
memory and some minutes.

PSS is what the processes hold: of a page that n of them share each counts 1/n. The sum of their RSS counts it n times.
A further worker costs what PSS grows by; "resident" in a limit for one worker means RSS, the larger of the two.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil

from benchmarks.machine import commit
from benchmarks.memory.process_memory import Memory, PeakMemory
from benchmarks.models.random_checkpoint import CHECKPOINTS, write_random_tokenizer
from launcher.demo import as_png, sample_radiograph
from launcher.local_server import LocalServer
from prelim_client.http_client import HttpClient

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT.parent / "shared" / "data" / "tokenizers" / "biogpt"
WEIGHTS = ("*.safetensors", "*.onnx", "*.onnx.data")
STAGGER_S = 0.3
"""Between requests of one round: a worker that is decoding already does not take what comes then, the idle one does."""


@dataclass(frozen=True)
class Step:
    """One command. seconds : it took; peak_rss : bytes at most, of the largest of its processes."""

    name: str
    seconds: float
    peak_rss: int


@dataclass(frozen=True)
class Served:
    """A server with so many workers.

    ready_s   : seconds from the start of the server, or from the request for more workers, until all were ready
    first_s   : latency of the first report
    steady_s  : median latency of the later ones, `workers` of them at a time
    peak      : memory while reports were written
    """

    workers: int
    ready_s: float
    first_s: float
    steady_s: float
    peak: Memory


def run(name: str, module: str, *arguments: str | int | Path) -> Step:
    """Run a command of this project. Raises CalledProcessError when it fails."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Step(name, time.perf_counter() - began, 1024 * usage.ru_maxrss)


def make_model(system: str, tokenizer: Path, folder: Path) -> tuple[Path, list[Step]]:
    """A model folder of true size with random weights, imported from a checkpoint as its original writes it."""
    checkpoint, model = folder / "final_model.pth", folder / system
    made = run("random checkpoint", "benchmarks.models.random_checkpoint", system, checkpoint)
    if not tokenizer.is_dir():
        print(f"{tokenizer} is not here: a made-up vocabulary takes its place", file=sys.stderr)
        tokenizer = folder
        write_random_tokenizer(folder)
    imported = run("import", "export.import_checkpoint", system, checkpoint, "--tokenizer", tokenizer, "--out", model)
    checkpoint.unlink()
    return model, [made, imported]


def with_precision(model: Path, precision: str, folder: Path) -> Path:
    """A copy of a model folder, its weights linked, with another precision in model.yaml."""
    import yaml

    copy = folder / f"{model.name}_{precision}"
    shutil.copytree(model, copy, copy_function=_link)
    config = yaml.safe_load((model / "model.yaml").read_text(encoding="utf-8"))
    config |= {"precision": precision, "name": copy.name}
    (copy / "model.yaml").unlink()
    (copy / "model.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return copy


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def weights_size(archive: Path) -> int:
    """Bytes of weights in an archive, networks included."""
    import zipfile

    with zipfile.ZipFile(archive) as files:
        return sum(entry.file_size for entry in files.infolist() if any(map(Path(entry.filename).match, WEIGHTS)))


def serve(archive: Path, workers: Sequence[int], rounds: int, tokens: int) -> list[Served]:
    """Start a server, scale it to each number of workers in turn, and ask it for reports of so many new tokens."""
    images = iter(_images())
    results = []
    began = time.perf_counter()
    with LocalServer(archive.parent) as server:
        server.wait_until_ready(archive.stem)
        http = HttpClient(server.url, server.key(), archive.stem, timeout=600)

        def ask(turn: int, image: bytes) -> float:
            time.sleep(STAGGER_S * turn)
            sent = time.perf_counter()
            http.report(image, max_new_tokens=tokens, min_new_tokens=tokens)
            return time.perf_counter() - sent

        for count in workers:
            if count > 1:
                began = time.perf_counter()
            wanted = f"min_worker={count}&max_worker={count}&synchronous=true"
            server.manage("PUT", f"/models/{archive.stem}?{wanted}").raise_for_status()
            server.wait_until_ready(archive.stem, workers=count)
            ready = time.perf_counter() - began
            latencies: list[float] = []
            with PeakMemory(server.pid) as memory, ThreadPoolExecutor(count) as pool:
                for _ in range(rounds):
                    latencies += pool.map(ask, range(count), [next(images) for _ in range(count)])
            results.append(Served(count, ready, latencies[0], median(latencies[count:] or latencies), memory.peak))
    return results


def _images() -> "Sequence[bytes]":
    """One radiograph as many files: no two have the same bytes, so that each is encoded."""
    png = as_png(sample_radiograph())
    return [png + f"{i}".encode() for i in range(1000)]


def table(weights: int, steps: Sequence[Step], served: Sequence[Served]) -> str:
    """The figures as Markdown."""
    lines = ["| step | s | peak RSS, MB |", "|---|---|---|"]
    lines += [f"| {step.name} | {step.seconds:.0f} | {step.peak_rss / 1e6:.0f} |" for step in steps]
    lines += [
        "",
        f"Weights in the archive: {weights / 1e6:.0f} MB. While answering:",
        "",
        "| workers | ready, s | first report, s | later reports, s | RSS, MB | PSS, MB | of it anonymous, MB | "
        "PSS for each further worker, MB | of the weights' size |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for before, now in zip([None, *served], served, strict=False):
        more, share = "", ""
        if before is not None:
            each = (now.peak.pss - before.peak.pss) / (now.workers - before.workers)
            more, share = f"{each / 1e6:.0f}", f"{100 * each / weights:.0f} %"
        times = f"{now.ready_s:.0f} | {now.first_s:.1f} | {now.steady_s:.1f}"
        memory = " | ".join(f"{value / 1e6:.0f}" for value in (now.peak.rss, now.peak.pss, now.peak.anonymous))
        lines.append(f"| {now.workers} | {times} | {memory} | {more} | {share} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--system", choices=CHECKPOINTS, default="biomedclip_qformer_biogpt", help="with random weights")
    what.add_argument("--model", type=Path, help="a model folder, instead of random weights")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="published tokenizer (%(default)s)")
    parser.add_argument("--precision", default="bf16", help="of the decoder, as in model.yaml (%(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers, rising (1 2)")
    parser.add_argument("--rounds", type=int, default=3, help="reports of each worker (%(default)s)")
    parser.add_argument("--tokens", type=int, default=24, help="new tokens of each report (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the large files go meanwhile; default: the temporary folder")
    parser.add_argument("--date", help="goes into the results")
    parser.add_argument("--out", type=Path, default=Path("out/bench/memory.json"), help="(%(default)s)")
    arguments = parser.parse_args()
    if arguments.workers != sorted(set(arguments.workers)) or arguments.workers[0] != 1:
        parser.error(f"--workers is {arguments.workers}; allowed: rising numbers that begin with 1, such as 1 2 4")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        model: Path | None = arguments.model
        steps: list[Step] = []
        if model is None:
            model, steps = make_model(arguments.system, arguments.tokenizer, folder)
        model = with_precision(model, arguments.precision, folder)
        store = folder / "store"
        # For the largest number: workers share the decoder's weights then, from the first one on.
        serving = ("--batching", "dynamic", "--workers", arguments.workers[-1], "--store", store)
        steps.append(run("export and package", "export.package", model, *serving))
        (archive,) = store.glob("*.mar")
        weights = weights_size(archive)
        served = serve(archive, arguments.workers, arguments.rounds, arguments.tokens)
    print(table(weights, steps, served))
    machine = {
        "cores": psutil.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "python": platform.python_version(),
    }
    result = {
        "date": arguments.date,
        "commit": commit(),
        "model": model.name,
        "machine": machine,
        "weights": weights,
        "steps": steps,
        "served": served,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, default=asdict, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
