"""Memory of a served model at its published size, with one worker and with several.

    python -m benchmarks.memory                                         # system 0, bf16, 1 and 2 workers
    python -m benchmarks.memory --workers 1 2 4 --precision fp32
    python -m benchmarks.memory --system vit_gpt2 --workers 1 --precision fp32 --tokens 60
    python -m benchmarks.memory --system gemma3 --precision int8_dynamic --workers 1
    python -m benchmarks.memory --model models/demo                     # an existing model folder

Next to the measured figures are those that `python -m export.plan` has for the model, before anything is loaded.

The archive uses dynamic batching: with several workers TorchServe's in-flight batching lets requests hang
(docs/decisions/0009-workers-share-onnx-weights.md).

A checkpoint with random weights and the published keys and size is written, imported, packaged and served with the
project's own commands. Then the server writes reports while the memory of all its processes is monitored. Prints a
Markdown table and writes --out as JSON. System 0 takes 7 GB of disk under --folder, 4 GB of memory and some minutes;
gemma3, which is MedGemma 4B, 25 GB of disk.

PSS is the real memory of the processes: a page shared by n of them counts 1/n in each. The sum of their RSS counts it n
times. The cost of a further worker is the growth of PSS; "resident" in a limit for one worker means RSS, the larger.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil

from benchmarks.machine import commit
from benchmarks.memory.process_memory import Memory, PeakMemory
from benchmarks.models.random_checkpoint import CHECKPOINTS, write_random_tokenizer
from benchmarks.models.random_folder import FOLDERS
from launcher.local_server import LocalServer
from launcher.sample_radiograph import as_png, sample_radiograph
from prelim_client.http_client import HttpClient
from terminal.arguments import CommandLine
from terminal.program import patience_with, sign_of_life

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT.parent / "shared" / "data" / "tokenizers" / "biogpt"
WEIGHTS = ("*.safetensors", "*.onnx", "*.onnx.data")
STAGGER_S = 0.3
"""Seconds between requests of one round, so that the next goes to an idle worker instead of one that is decoding."""


@dataclass(frozen=True)
class MeasuredCommand:
    """One command. seconds : its duration; peak_rss : peak bytes of its largest process."""

    name: str
    seconds: float
    peak_rss: int


@dataclass(frozen=True)
class Served:
    """Figures of a server with a number of workers.

    ready_s   : seconds from the start of the server, or from the request for more workers, until all were ready
    first_s   : latency of the first report
    steady_s  : median latency of the later ones, `workers` of them at a time
    peak      : peak memory while writing reports
    """

    workers: int
    ready_s: float
    first_s: float
    steady_s: float
    peak: Memory


def run(name: str, module: str, *arguments: str | int | Path) -> MeasuredCommand:
    """Run a command of this project. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    began = time.perf_counter()
    with (
        sign_of_life(name),
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process,
        patience_with(process),
    ):
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return MeasuredCommand(name, time.perf_counter() - began, 1024 * usage.ru_maxrss)


def make_model(system: str, tokenizer: Path, folder: Path) -> tuple[Path, list[MeasuredCommand]]:
    """Make a model folder of published size with random weights, imported from a checkpoint in the original format.

    tokenizer : of system 0; folders of `transformers` have a made-up vocabulary
    """
    model = folder / system
    if system in FOLDERS:
        checkpoint = folder / "checkpoint"
        made = run("random checkpoint", "benchmarks.models.random_folder", system, checkpoint)
        given = (FOLDERS[system].system, checkpoint, "--tokenizer", checkpoint, "--out", model)
        imported = run("import", "export.import_checkpoint", *given)
        shutil.rmtree(checkpoint)
        return model, [made, imported]
    checkpoint = folder / "final_model.pth"
    made = run("random checkpoint", "benchmarks.models.random_checkpoint", system, checkpoint)
    if not tokenizer.is_dir():
        print(f"{tokenizer} does not exist: using a made-up vocabulary", file=sys.stderr)
        tokenizer = folder
        write_random_tokenizer(folder)
    imported = run("import", "export.import_checkpoint", system, checkpoint, "--tokenizer", tokenizer, "--out", model)
    checkpoint.unlink()
    return model, [made, imported]


def read_plan(model: Path, tokens: int) -> dict[str, float]:
    """What `export.plan` says about a model folder: bytes, and seconds with this machine's rates.

    tokens : of a report, in place of the model's own length
    """
    command = [sys.executable, "-m", "export.plan", str(model), "--json"]
    with sign_of_life("planning"):
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    planned: dict[str, float] = json.loads(done.stdout)
    return {**planned, "report": planned["image"] + tokens * planned["step"]}


def with_precision(model: Path, precision: str, folder: Path) -> Path:
    """Copy a model folder, linking its weights, with another precision in model.yaml."""
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
    """Start a server, scale it to each number of workers in turn, and request reports of `new_tokens` tokens."""
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
    """Copies of one radiograph with different bytes, so that each is encoded instead of found in the cache."""
    png = as_png(sample_radiograph())
    return [png + f"{i}".encode() for i in range(1000)]


def table(weights: int, steps: Sequence[MeasuredCommand], served: Sequence[Served]) -> str:
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


def comparison(planned: Mapping[str, float], weights: int, packaging: MeasuredCommand, one: Served) -> str:
    """Plan and measured figures side by side, of one worker.

    weights : in the archive
    """
    whole = planned["worker"] + planned["frontend"]
    gigabytes = [
        ("archive", planned["archive"], weights),
        ("peak memory of packaging", planned["packaging"], packaging.peak_rss),
        ("peak memory of a worker", planned["worker"], one.peak.largest),
        ("while answering, with the server around it", whole, one.peak.rss),
    ]
    lines = ["", "| | plan | measured | plan / measured |", "|---|---|---|---|"]
    lines += [f"| {what} | {a / 1e9:.2f} GB | {b / 1e9:.2f} GB | {a / b:.2f} |" for what, a, b in gigabytes]
    report = planned["report"]
    lines.append(f"| one report, at least | {report:.2f} s | {one.steady_s:.2f} s | {report / one.steady_s:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--system",
        choices=[*CHECKPOINTS, *FOLDERS],
        default="biomedclip_qformer_biogpt",
        help="with random weights",
    )
    what.add_argument("--model", type=Path, help="a model folder, instead of random weights")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="published tokenizer (%(default)s)")
    parser.add_argument("--precision", default="bf16", help="precision of the decoder, as in model.yaml (%(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers, ascending (1 2)")
    parser.add_argument("--rounds", type=int, default=3, help="reports per worker (%(default)s)")
    parser.add_argument("--tokens", type=int, default=24, help="new tokens per report (%(default)s)")
    parser.add_argument("--folder", type=Path, help="folder for large temporary files (default: the system's)")
    parser.add_argument("--date", help="date to write into the results")
    parser.add_argument("--out", type=Path, default=Path("out/bench/memory.json"), help="(%(default)s)")
    arguments = parser.parse_args()
    if arguments.workers != sorted(set(arguments.workers)) or arguments.workers[0] != 1:
        parser.error(f"--workers is {arguments.workers}; allowed: ascending numbers starting with 1, such as 1 2 4")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        model: Path | None = arguments.model
        steps: list[MeasuredCommand] = []
        if model is None:
            model, steps = make_model(arguments.system, arguments.tokenizer, folder)
        model = with_precision(model, arguments.precision, folder)
        planned = read_plan(model, arguments.tokens)
        store = folder / "store"
        # Packaged for the largest number, so that workers share the decoder's weights from the first one on.
        serving = ("--batching", "dynamic", "--workers", arguments.workers[-1], "--store", store)
        steps.append(run("export and package", "export.package", model, *serving))
        (archive,) = store.glob("*.mar")
        weights = weights_size(archive)
        with sign_of_life("serving"):
            served = serve(archive, arguments.workers, arguments.rounds, arguments.tokens)
    print(table(weights, steps, served))
    print(comparison(planned, weights, steps[-1], served[0]))
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
        "planned": planned,
        "steps": steps,
        "served": served,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, default=asdict, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
