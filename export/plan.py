"""Print what a model needs and how fast it is, from the shapes in its files, before anything is loaded.

    python -m export.plan FOLDER                              # a checkpoint that is a whole system, or a model folder
    python -m export.plan OWNER/NAME --precision int8
    python -m export.plan final_model.pth --system biomedclip_qformer_biogpt
    python -m export.plan --system maira2                     # a system in its published size
    python -m export.plan FOLDER --gflops 60 --gbs 12         # of another machine; without them this one is measured
    python -m export.plan FOLDER --json                       # the figures alone, in bytes and seconds

Memory is that of one worker with all its weights packed, while it decodes `--requests` reports at a time; the server
around it takes FRONTEND more. Times are lower bounds: the operations of the networks at the rate of a large matrix
product, and for each decoding step the larger of its operations and its bytes at the memory's bandwidth.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.checkpoints.import_source import checkpoint_source
from export.checkpoints.record import ImportRecord
from export.checkpoints.settings import stored_model_type
from export.footprint import Footprint, footprint
from export.import_checkpoint import describe, empty_network, read_option
from prelim.archive.archive import CONFIG
from prelim.archive.encoder_config import AUTO
from prelim.archive.model_config import ModelConfig
from prelim.decoders.precision import PRECISIONS
from prelim.errors import ArchiveError
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.machine import PRODUCTS, Machine, family, measure_machine
from terminal.arguments import CommandLine, positive

WORKER = 880e6
"""Bytes of a worker without a model: Python, PyTorch, ONNX Runtime, compiled steps; the demo model has 909e6."""

PACKAGING = 970e6
"""The same of `export.package`, with transformers and the exporter of PyTorch."""

WRITING = 1000e6
"""Bytes that a decoder takes at most while it is written: some rows, and what is mapped. With --images it is more."""

FRONTEND = 380e6
"""Bytes of TorchServe's frontend, in Java."""

_FASTER = {"fp32": 1, "bf16": 2, "int8": 4}
"""How many times as fast products of a type are taken to be as those of float32, where only these are given."""


@dataclass(frozen=True)
class ModelPlan:
    """Bytes and seconds of a model.

    archive   : its file
    packaging : peak memory of `export.package`
    worker    : peak memory of a worker
    image     : time of encoding one image
    step      : time of a decoding step of one report with the default options
    report    : time of a report with the default options, alone
    """

    archive: float
    packaging: float
    worker: float
    image: float
    step: float
    report: float


def plan(needs: Footprint, machine: Machine, precision: str, requests: int) -> ModelPlan:
    """The plan of a model whose decoder has a precision on a machine, with so many requests at a time."""
    weights = needs.encoder + needs.decoder
    step = max(
        (needs.step_bytes + needs.columns / 2 + needs.image_columns) / machine.bandwidth,
        needs.rows * needs.step_operations / machine.rate(precision),
    )
    image = needs.image_operations / machine.rate("fp32")
    return ModelPlan(
        archive=weights,
        # The encoder is exported, then compared for two images; then the decoder is written, some rows at a time.
        packaging=PACKAGING
        + max(
            3 * needs.encoder,
            2 * needs.encoder + 3 * needs.activations,
            needs.encoder + min(needs.decoder, WRITING),
        ),
        # Weights are packed one by one, and leave what was read of the file; then images are encoded.
        worker=WORKER
        + needs.encoder
        + needs.decoder
        + max(needs.largest, needs.activations + requests * (needs.columns + needs.image_columns)),
        image=image,
        step=step,
        report=image + needs.tokens * step,
    )


def footprint_of(
    given: Sequence[str], system: str | None, precision: str | None, options: Mapping[str, object] | None = None
) -> tuple[ModelConfig, Footprint]:
    """The model that files describe, and its footprint.

    given     : sources of an import, or one model folder; none: the system in its published size
    system    : a name in ARCHITECTURES; None: that of the model_type in config.json
    precision : one of PRECISIONS; None: that of the model folder

    Raises ArchiveError as the import does, and if no system is given and none is found.
    """
    if not given:
        if system is None:
            raise ArchiveError("neither files nor --system are given")
        published = ARCHITECTURES[system].published
        sections = {"name": system, "version": "1.0", "architecture": system, **published.defaults, **published.size}
        config = ModelConfig.from_mapping(sections, system)
        network = empty_network(config)
    elif (Path(given[0]) / CONFIG).is_file():
        config = ModelConfig.read(Path(given[0]) / CONFIG)
        network = empty_network(config)
    else:
        sources = [checkpoint_source(one) for one in given]
        kind = stored_model_type(sources[0].path)
        whole = {name: a.published for name, a in ARCHITECTURES.items() if a.published.whole_config}
        found = [name for name, published in whole.items() if kind in published.model_types]
        if system is None and not found:
            raise ArchiveError(f"no system here has the model_type {kind!r}; give it with --system")
        # What an import would print is of no interest yet.
        with contextlib.redirect_stdout(io.StringIO()):
            described = describe(system or found[0], sources, "planned", ImportRecord(), options=options)
        config, network = described.config, described.network
    if precision is not None:
        config = dataclasses.replace(config, precision=precision)
    if config.precision == AUTO:
        raise ArchiveError(f"precision is {AUTO}, which packaging chooses by reports; give one with --precision")
    try:
        return config, footprint(config, network)
    except ValueError as error:
        raise ArchiveError(f"precision {config.precision}: {error}") from error


def table(config: ModelConfig, needs: Footprint, planned: ModelPlan, requests: int) -> str:
    """The plan as Markdown."""
    precision = config.precision if config.encoder is None else f"{config.precision}, encoder {config.encoder}"
    many = "" if requests == 1 else f", {requests} requests at a time"
    lines = [
        f"{config.architecture}, {precision}: {needs.image_tokens} image tokens; reports of {needs.tokens} "
        f"tokens with {needs.rows} beam{'s' if needs.rows > 1 else ''}{many}",
        "",
        "| | |",
        "|---|---|",
        f"| archive, and disk space of each host | {_gigabytes(planned.archive)} |",
        f"| peak memory of packaging | {_gigabytes(planned.packaging)} |",
        f"| peak memory of a worker | {_gigabytes(planned.worker)} |",
        f"| and of the server around it | {_gigabytes(FRONTEND)} |",
        f"| one image, at least | {planned.image:.3g} s |",
        f"| one decoding step, at least | {1e3 * planned.step:.3g} ms |",
        f"| one report alone, at least | {planned.report:.3g} s |",
    ]
    return "\n".join(lines)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__.replace("FRONTEND", _gigabytes(FRONTEND)))
    parser.add_argument("checkpoint", nargs="*", help="what the import would be given, or a model folder")
    parser.add_argument("--system", choices=ARCHITECTURES, help="default: that of the model_type in config.json")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: that of model.yaml, or fp32")
    parser.add_argument("--requests", type=positive, default=1, help="decoded at a time (%(default)s)")
    parser.add_argument(
        "--gflops",
        type=_rate,
        help="1e9 operations a second of a product of float32; 16 and 8 bits: 2 and 4 times it",
    )
    parser.add_argument("--gbs", type=_rate, help="1e9 bytes a second that memory gives")
    parser.add_argument("--set", action="append", type=read_option, default=[], dest="options", metavar="NAME=VALUE")
    parser.add_argument("--json", action="store_true", help="the figures in bytes and seconds")
    arguments = parser.parse_args()
    try:
        config, needs = footprint_of(
            arguments.checkpoint, arguments.system, arguments.precision, dict(arguments.options)
        )
    except ArchiveError as error:
        sys.exit(f"{error}")
    planned = plan(
        needs, _machine(arguments.gflops, arguments.gbs, config.precision), config.precision, arguments.requests
    )
    if arguments.json:
        print(json.dumps({**dataclasses.asdict(planned), "frontend": FRONTEND}))
    else:
        print(table(config, needs, planned, arguments.requests))


def _machine(gflops: float | None, gbs: float | None, precision: str) -> Machine:
    """The machine with these rates; what is not given is measured."""
    kinds = {"fp32", PRODUCTS[family(precision)]}
    given = {kind: 1e9 * (gflops or 0) * _FASTER[kind] for kind in kinds}
    if gflops and gbs:
        return Machine(1e9 * gbs, 1e9 * gbs, given)
    here = measure_machine(kinds)
    bandwidth = 1e9 * gbs if gbs else here.bandwidth
    return Machine(bandwidth, bandwidth, given if gflops else here.operations)


def _rate(given: str) -> float:
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{given!r} is not a number above 0")
    return value


if __name__ == "__main__":
    main()
