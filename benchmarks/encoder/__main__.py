"""Time of encoding an image: as served by default, in other choices of `encoder`, in PyTorch and OpenVINO.

    python -m benchmarks.encoder                                       # all encoders, with their connectors
    python -m benchmarks.encoder --encoders biomedclip --batches 1 --rounds 3
    python -m benchmarks.encoder --encoders biomedclip densenet --parts vision --no-compile   # docs/benchmarks.md
    python -m benchmarks.encoder --settings                            # ONNX Runtime's other settings as well

Networks have their published size and random weights. export.package exports them once into build/bench; after a change
of the export, remove build/bench/encoders. All run in one process and take turns, A B C, A B C, ...
Writes encoder.json and encoder.md into --out.
"""

import dataclasses
import json
import os
import platform
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.encoder.peers import nncf
from benchmarks.encoder.runners import floor, runners
from benchmarks.encoder.table import EncoderRow, measure, rows, table
from benchmarks.machine import IDLE, ROOT, commit, describe_machine, measure_machine, show_turn, where_and_when
from benchmarks.models.random_model import write_random_model
from benchmarks.models.real_models import sample_images
from benchmarks.models.shapes import Shape
from prelim.archive.archive import CONFIG, CONNECTOR, VISION
from prelim.archive.encoder_config import EXACT, INT8, RUNTIMES, EncoderConfig
from prelim.archive.model_config import ModelConfig
from prelim.networks.agreement import read_pixels
from prelim.networks.architectures.architecture import Network
from prelim.networks.model_folder import read_network
from terminal.arguments import CommandLine
from terminal.program import run_child, sign_of_life

STORE = ROOT / "build" / "bench" / "encoders"
PEERS = ROOT / "build" / "bench" / "bin" / "python"
"""Of the environment of the peers, which has NNCF."""

NNCF = "nncf.xml"
"""The vision encoder that NNCF has quantized; there is none without the environment of the peers."""

CALIBRATED = 40
"""Images that a model is packaged with; half of them set scales of 8 bits."""

PARTS = {"vision": VISION, "connector": CONNECTOR}


@dataclass(frozen=True)
class PublishedEncoder:
    """Vision encoder and connector of a system, both of published size; of the decoder only the width matters here."""

    system: str
    connector: Mapping[str, Any]
    width: int

    @property
    def decoder(self) -> Shape:
        """A decoder that packaging can run: what 8 bits change is measured by the tokens that it writes."""
        return Shape(
            f"none{self.width}",
            {
                "kind": "cross_attention",
                "vocab_size": 8,
                "width": self.width,
                "layers": 1,
                "heads": self.width // 64,
                "feedforward": 8,
                "max_positions": 8,
            },
        )


ENCODERS = {
    "biomedclip": PublishedEncoder("biomedclip_qformer_biogpt", {}, 1024),
    "mobilenet": PublishedEncoder("mobilenet_graph", {"width": 512}, 512),
    "densenet": PublishedEncoder("densenet_disease_llama", {"width": 4096}, 4096),
}
"""Name on the command line -> encoder."""


def export_networks(name: str, store: Path) -> Path:
    """A folder with model.yaml, weights and exported networks; what it lacks is made."""
    folder = store / name
    images = folder / "images"
    if not images.is_dir():
        _write_model(ENCODERS[name], folder, images, store)
    config = ModelConfig.read(folder / CONFIG)
    for served in (EXACT, *(EncoderConfig(runtime, INT8, INT8) for runtime in RUNTIMES)):
        out = folder if served == EXACT else folder / served.runtime
        if not (out / VISION).is_file():
            dataclasses.replace(config, encoder=served).write(folder / CONFIG)
            _export(folder, images, store, out)
    if PEERS.is_file() and not (folder / NNCF).is_file():
        _quantize_by_nncf(config, folder, images)
    return folder


def _write_model(encoder: PublishedEncoder, folder: Path, images: Path, store: Path) -> None:
    """A model folder, and radiographs for its scales of 8 bits."""
    write_random_model(
        folder,
        encoder.system,
        vision={},
        connector=encoder.connector,
        decoder=encoder.decoder,
        store=store,
        prompt=None,
        # Of the published vocabularies they are beyond this one.
        tokenizer={"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
        generation={"max_new_tokens": 1},
    )
    files = sample_images(CALIBRATED)[1]
    images.mkdir()
    for i, file in enumerate(files):
        (images / f"{i:03d}").write_bytes(file)


def _export(model: Path, images: Path, store: Path, folder: Path) -> None:
    """The networks of a model's archive in a folder."""
    command = [sys.executable, "-m", "export.package", str(model), "--store", str(store), "--images", str(images)]
    with sign_of_life(f"exporting {folder.relative_to(store)}"):
        run_child(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    packed = store / f"{model.name}.mar"
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(folder, [entry for entry in archive.namelist() if Path(entry).match("*.onnx*")])
    packed.unlink()


def _quantize_by_nncf(config: ModelConfig, folder: Path, images: Path) -> None:
    """The vision encoder, by the images that ours is calibrated with."""
    files = [image.read_bytes() for image in sorted(images.iterdir())[::2]]
    np.save(folder / "images.npy", read_pixels(config, files))
    names = [folder / VISION, folder / "images.npy", folder / NNCF]
    command = [str(PEERS), str(Path(nncf.__file__)), *map(str, names)]
    with sign_of_life(f"quantizing {folder.name} with NNCF"):
        run_child(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def bench(
    names: Sequence[str],
    parts: Sequence[str],
    batches: Sequence[int],
    rounds: int,
    threads: int,
    *,
    settings: bool,
    compiled: bool,
) -> dict[str, Any]:
    """Measure; returns the content of encoder.json.

    settings, compiled : of `runners`
    """
    machine = measure_machine(threads)
    record: dict[str, Any] = {
        "commit": commit(),
        "machine": describe_machine(),
        "settings": {"threads": threads, "rounds": rounds},
        "floor": dataclasses.asdict(machine),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "encoders": {},
    }
    torch.set_num_threads(threads)
    for name in names:
        folder = export_networks(name, STORE)
        config, network = read_network(folder)
        for part in parts:
            file, by_nncf = folder / PARTS[part], folder / NNCF
            turns = runners(
                getattr(network, part),
                file,
                threads,
                settings=settings,
                compiled=compiled,
                served={runtime: folder / runtime / file.name for runtime in RUNTIMES},
                peers={"OpenVINO, int8 by NNCF": by_nncf} if part == "vision" and by_nncf.is_file() else {},
            )
            for batch in batches:
                images = torch.randn(batch, config.preprocess.channels, *config.preprocess.picture_size())
                operations, inputs = _work(network, part, images)
                everybody = [*turns, floor(operations)]
                with tqdm(total=(rounds + 1) * len(everybody), unit="turn", leave=False) as bar:
                    timings = measure(everybody, inputs.numpy(), rounds, partial(show_turn, bar))
                key, found = f"{name} {part}, batch {batch}", rows(timings)
                record["encoders"][key] = {"operations": operations, "rows": [vars(row) for row in found]}
                print(f"\n{key}\n{table(found)}", flush=True)
    return record


def _work(network: Network, part: str, images: torch.Tensor) -> tuple[int, torch.Tensor]:
    """Floating-point operations of a part for these images, and its input."""
    with torch.inference_mode():
        inputs = images if part == "vision" else network.vision(images)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        getattr(network, part)(inputs.clone())
    return counter.get_total_flops(), inputs


def markdown(record: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = [
        "# Encoding, ms a batch",
        where_and_when(record),
        f"Fastest calls of {record['settings']['rounds']} rounds in which all took turns. "
        '"Times the default" is the ratio of its time to that of the default, the median over the rounds. '
        "Differences are relative to the largest output. Weights are random, of the published size.",
    ]
    for key, encoder in record["encoders"].items():
        found = [EncoderRow(**row) for row in encoder["rows"]]
        parts.append(f"## {key}: {encoder['operations'] / 1e9:.1f} G operations\n\n{table(found)}")
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS), help="(all)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(all)")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="batch sizes (1 4)")
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds after the warm-up (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of each runner (%(default)s)"
    )
    parser.add_argument("--settings", action="store_true", help="also measure other settings of ONNX Runtime")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which compiles for minutes")
    parser.add_argument("--date", help="date to write into the results")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of the results (%(default)s)")
    given = parser.parse_args(arguments)
    for name, values in (("batches", given.batches), ("rounds", [given.rounds]), ("threads", [given.threads])):
        if min(values) < 1:
            parser.error(f"--{name} is {min(values)}; it must be 1 or more")
    record = {"date": given.date} | bench(
        given.encoders,
        given.parts,
        given.batches,
        given.rounds,
        given.threads,
        settings=given.settings,
        compiled=not given.no_compile,
    )
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "encoder.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    (given.out / "encoder.md").write_text(markdown(record), encoding="utf-8")
    print(f"full results: {given.out / 'encoder.md'} and encoder.json")


if __name__ == "__main__":
    if all(name in os.environ for name in IDLE):
        main()
    else:
        # Libraries read these variables when they start their threads, so they must be set before the process starts.
        command = [sys.executable, "-m", "benchmarks.encoder", *sys.argv[1:]]
        os.execve(sys.executable, command, IDLE | dict(os.environ))  # noqa: S606 - no shell is needed
