"""Package a model folder as an archive that TorchServe serves.

    python -m export.package models/demo                          # model_store/demo.mar
    python -m export.package models/demo --batching dynamic       # without in-flight batching
    python -m export.package models/demo --batching dynamic --workers 2
    python -m export.package models/demo --store elsewhere --slots 16
    python -m export.package models/mine --images radiographs     # where model.yaml has `precision: auto`
    python -m export.package models/mine --reports train.jsonl    # with draft tokens, for greedy search and sampling
    python -m export.package models/demo --sign archives.pem      # and model_store/demo.mar.sig

Archives are reproducible: time stamps are fixed, files are sorted, and metadata of the exporting machine is removed
from the ONNX files.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import yaml
from torch import Tensor, nn

from export.choose_encoder import describe_encoder, settle_encoder, wanted_encoder
from export.choose_precision import choose_by, describe
from export.export_onnx import export_onnx
from export.known_reports import tabulate
from export.reference import Reference, read_reference
from prelim.archive.archive import (
    CONFIDENCE,
    CONFIG,
    CONNECTOR,
    DECODER,
    DRAFTS,
    GATE,
    INSIGHT_SUFFIX,
    TOKENIZER,
    VISION,
)
from prelim.archive.encoder_config import AUTO, EXACT, INT8, EncoderConfig
from prelim.archive.manifest import write_manifest
from prelim.archive.mar import write_mar
from prelim.archive.model_config import ModelConfig
from prelim.archive.signature import Signer
from prelim.archive.terms import DOCUMENTS, TERMS
from prelim.decoders.precision import Moments
from prelim.decoders.weights_file import write_weights
from prelim.encoding.gate import require_gate
from prelim.errors import ArchiveError
from prelim.kernels import GPU
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.card_section import write_section
from prelim.networks.model_folder import MODEL_CARD, Model, read_model_folder
from prelim.networks.terms import check_use, describe_terms, find_gaps, list_documents
from prelim.networks.trained_decoder import Trainable, for_serving
from terminal.arguments import CommandLine
from terminal.program import sign_of_life

ROOT = Path(__file__).resolve().parent.parent
MAX_SLOTS, MAX_WORKERS = 256, 64
LIBRARY = ROOT / "model_src" / "prelim"
HANDLER = ROOT / "handlers" / "report_handler.py"
SERVING = ROOT / "handlers" / "model-config.yaml"
NOT_SERVED = ("networks", "__pycache__")
"""Not copied into the archive, which has the networks as ONNX files and the decoder in its serving form."""

_SEED = 0

_FEW_TOKENS = 45
"""Of the images that exported networks are compared with, where they have several sizes: neither side in windows."""


@dataclass(frozen=True)
class Settled:
    """A model with a precision of its decoder in place of `auto`, and by what that of its encoder is settled.

    encoder   : what model.yaml asks for, which may be `auto`
    reference : None where nothing is measured
    moments   : by which weights of few bits are rounded
    """

    model: Model
    encoder: EncoderConfig = EXACT
    reference: Reference | None = None
    moments: Moments | None = None


def write_model_files(settled: Settled, folder: Path) -> ModelConfig:
    """Write an archive's networks, weights, tokenizer, gate, calibration and model.yaml, without code or manifest.

    returns : model.yaml of the archive
    """
    model = settled.model
    require_gate(model.config, model.gate, model.config.name)
    p = model.config.preprocess
    sides = p.resize == "multiples"
    generator = torch.Generator().manual_seed(_SEED)
    images = torch.randn(2, p.channels, *p.picture_size(_FEW_TOKENS), generator=generator)
    difference = export_onnx(
        model.network.vision,
        images,
        folder / VISION,
        inputs="pixel_values",
        outputs="image_features",
        varying={2: p.size, 3: p.size} if sides else {},
    )
    print(f"{VISION}: largest difference from PyTorch {difference:.1e}")
    with torch.inference_mode():
        features = model.network.vision(images)
    difference = export_onnx(
        model.network.connector,
        features.clone(),
        folder / CONNECTOR,
        inputs="image_features",
        outputs="image_embeds",
        varying={1: 1, 2: 1} if sides else {},
    )
    print(f"{CONNECTOR}: largest difference from PyTorch {difference:.1e}")
    for name in ARCHITECTURES[model.config.architecture].insights:
        insight = _Insight(model.network.connector, name).eval()
        export_onnx(
            insight, features.clone(), folder / f"{name}{INSIGHT_SUFFIX}", inputs="image_features", outputs=name
        )
    encoder, of_vision, of_connector = settled.encoder, None, None
    if settled.reference is not None and encoder != EXACT:
        encoder, of_vision, of_connector = settle_encoder(model, encoder, settled.reference, settled.moments, folder)
    config = dataclasses.replace(
        write_decoder(model, folder, settled.moments),
        encoder=None if encoder == EXACT else encoder,
        measured_encoder=of_vision,
        measured_connector=of_connector,
    )
    for told in describe_encoder(config):
        print(told)
    config.write(folder / CONFIG)
    model.tokenizer.save(str(folder / TOKENIZER))
    if model.gate is not None:
        model.gate.write(folder / GATE)
    if model.confidence is not None:
        model.confidence.write(folder / CONFIDENCE)
    return config


def write_decoder(model: Model, folder: Path, moments: Moments | None = None) -> ModelConfig:
    """Write the decoder's weights in the precision of model.yaml.

    moments : by which weights of few bits are rounded
    returns : model.yaml of the archive, with the dimensions of the served decoder

    Raises ArchiveError if the decoder cannot be served in this precision.
    """
    config = model.config
    try:
        section, _, weights = for_serving(cast("Trainable", model.network.decoder), config.precision, moments)
    except ValueError as error:
        raise ArchiveError(f"precision {config.precision}: {error}") from error
    write_weights(folder / DECODER, weights, list(model.network.decoder.state_dict().values()))
    return dataclasses.replace(config, decoder=section)


class _Insight(nn.Module):
    """One method of a connector as a module."""

    def __init__(self, connector: nn.Module, method: str) -> None:
        super().__init__()
        self.connector = connector
        self.method = method

    def forward(self, image_features: Tensor) -> Tensor:
        return getattr(self.connector, self.method)(image_features)


def settle_precision(model: Model, images: Path | None, processor: str | None = None) -> Settled:
    """Choose the decoder's precision where it is `auto`, and by what its weights are rounded.

    images    : folder of radiographs; with them, weights of a precision that is named are rounded by what layers read,
                too, unless confidence.json was fitted to weights that are rounded to the nearest
    processor : of `read_reference`

    Raises ArchiveError as `read_reference` and `wanted_encoder` do, and for `auto` with a confidence.json, which is of
    some precision.
    """
    named, encoder = model.config.precision, wanted_encoder(model)
    auto = named == AUTO
    if auto and model.confidence is not None:
        raise ArchiveError(
            f"precision is {AUTO}, but confidence.json is of one precision; name that, or remove the file"
        )
    measured = auto or (images is not None and named != "fp32" and model.confidence is None)
    needing = [f"encoder.{name}: {given}" for name, given in encoder.precisions.items() if given in (AUTO, INT8)]
    if not measured and not needing and (images is None or encoder == EXACT):
        return Settled(model, encoder)
    what = f"precision: {AUTO}" if auto else needing[0] if needing else "rounding"
    reference = read_reference(model, images, what, processor)
    if not measured:
        return Settled(model, encoder, reference)
    choice = choose_by(reference, None if auto else named)
    chosen = choice.chosen
    print(f"precision {chosen.precision}, {describe(chosen)}")
    config = dataclasses.replace(model.config, precision=chosen.precision, chosen_precision=chosen)
    return Settled(dataclasses.replace(model, config=config), encoder, reference, choice.moments)


def write_archive(
    model_folder: Path,
    store: Path,
    *,
    batching: str,
    slots: int,
    workers: int = 1,
    images: Path | None = None,
    reports: Path | None = None,
    gpu: bool = False,
) -> Path:
    """Build the .mar of a model folder.

    batching : "in-flight" or "dynamic"
    slots    : maximum number of requests decoded together
    workers  : number of worker processes, which share the weights; more than one only with dynamic batching
    images   : folder of radiographs, as `settle_precision` takes it
    gpu      : `auto` is what GPUs are fast with, not this kind of processor
    reports  : file of known reports for draft tokens, as `tabulate` takes it
    returns  : path of the archive, `<store>/<name>.mar` or `<store>/<name>_dynamic.mar`

    Raises ArchiveError if the folder is not a valid model folder, if an exported network differs from PyTorch, for a
    use that the license does not allow, for numbers of slots or workers that are not possible, and for several workers
    with in-flight batching, which TorchServe does not support (docs/decisions/0009).
    """
    for what, number, most in (("slots", slots, MAX_SLOTS), ("workers", workers, MAX_WORKERS)):
        if not 1 <= number <= most:
            raise ArchiveError(f"{what} is {number}; allowed: 1 to {most}")
    if workers > 1 and batching == "in-flight":
        raise ArchiveError(
            f"workers is {workers} with in-flight batching; only dynamic batching supports more than one"
        )
    settled = settle_precision(read_model_folder(model_folder, decoder_as_stored=True), images, GPU if gpu else None)
    model = settled.model
    check_use(model.config.licence, model.config.use, f"{model_folder / CONFIG}: use")
    name = model.config.name if batching == "in-flight" else f"{model.config.name}_dynamic"
    with tempfile.TemporaryDirectory() as temporary:
        extra, exported = Path(temporary, "extra"), Path(temporary, "exported")
        extra.mkdir()
        exported.mkdir()
        config = write_model_files(settled, extra)
        if reports is not None:
            tabulate(reports, model).write(extra / DRAFTS)
        _copy_terms(model.config, model_folder, extra)
        if (model_folder / MODEL_CARD).is_file():
            shutil.copy(model_folder / MODEL_CARD, extra)
            write_section(extra / MODEL_CARD, "terms", describe_terms(config.licence, config.use, model_folder))
            if told := _describe_figures(config):
                write_section(extra / MODEL_CARD, "precision", told)
        shutil.copytree(ROOT / "handlers", extra / "handlers", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(LIBRARY, extra / "prelim", ignore=shutil.ignore_patterns(*NOT_SERVED))
        serving = Path(temporary, "model-config.yaml")
        serving.write_text(_serving_config(batching, slots, workers), encoding="utf-8")
        _run_archiver(name, model.config.version, extra, serving, exported)
        store.mkdir(parents=True, exist_ok=True)
        write_manifest(exported / name)
        return write_mar(exported / name, store / f"{name}.mar")


def _copy_terms(config: ModelConfig, model_folder: Path, extra: Path) -> None:
    """Copy the documents that travel with the weights, and print what is missing."""
    for document in list_documents(model_folder):
        if document.suffix not in DOCUMENTS:
            allowed = ", ".join(sorted(filter(None, DOCUMENTS)))
            raise ArchiveError(f"{document}: a document of the terms ends in {allowed} or has no ending; rename it")
        (extra / TERMS).mkdir(exist_ok=True)
        shutil.copyfile(document, extra / TERMS / document.name)
    for gap in find_gaps(config.licence, config.use, model_folder):
        print(f"GAP: {gap}")


def _describe_figures(config: ModelConfig) -> str:
    """The section `precision` of the model card; empty where packaging has measured nothing."""
    told = [] if config.chosen_precision is None else [describe(config.chosen_precision)]
    told += describe_encoder(config)
    return "\n\n".join(told) + "\n" if told else ""


def _serving_config(batching: str, slots: int, workers: int) -> str:
    """TorchServe's model-config.yaml: the committed file with the settings of this archive."""
    config = yaml.safe_load(SERVING.read_text(encoding="utf-8"))
    config["batchSize"] = slots
    config["minWorkers"] = config["maxWorkers"] = workers
    config["continuousBatching"] = batching == "in-flight"
    return yaml.safe_dump(config, sort_keys=False)


def _run_archiver(name: str, version: str, extra: Path, serving: Path, exported: Path) -> None:
    """Run torch-model-archiver with a folder as output, because its zip files contain time stamps."""
    command = [sys.executable, "-m", "model_archiver.model_packaging", "--model-name", name, "--version", version]
    command += ["--handler", str(HANDLER), "--extra-files", str(extra), "--config-file", str(serving)]
    command += ["--runtime", "python3", "--archive-format", "no-archive", "--export-path", str(exported), "--force"]
    # The archiver deletes <temporary folder>/<name> and writes there: give it a private temporary folder.
    scratch = exported.parent / "scratch"
    scratch.mkdir()
    done = subprocess.run(command, env={"TMPDIR": str(scratch)}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ArchiveError(f"torch-model-archiver failed: {done.stderr.strip()[-1000:]}")
    manifest = exported / name / "MAR-INF" / "MANIFEST.json"
    contents = json.loads(manifest.read_text(encoding="utf-8"))
    contents["createdOn"] = "01/01/1980 00:00:00"
    manifest.write_text(json.dumps(contents, indent=2, sort_keys=True), encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("model_folder", type=Path)
    parser.add_argument("--store", type=Path, default=ROOT / "model_store")
    parser.add_argument("--batching", choices=("in-flight", "dynamic"), default="in-flight")
    parser.add_argument("--slots", type=int, default=8, help="maximum number of requests decoded together")
    parser.add_argument(
        "--workers", type=int, default=1, help="worker processes; more than one only with --batching dynamic"
    )
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="at most 100 radiographs: for `precision: auto`, and for rounding"
    )
    parser.add_argument("--gpu", action="store_true", help="for a GPU: `precision: auto` becomes bf16 or fp32")
    parser.add_argument(
        "--reports", type=Path, metavar="FILE", help="known reports, JSON Lines with `report`, for draft tokens"
    )
    parser.add_argument(
        "--sign", type=Path, metavar="KEY", help="sign the archive: an elliptic curve key in PEM (docs/operate.md)"
    )
    arguments = parser.parse_args()
    try:
        signer = Signer(arguments.sign) if arguments.sign else None
        with sign_of_life(f"packaging {arguments.model_folder}"):
            path = write_archive(
                arguments.model_folder,
                arguments.store,
                batching=arguments.batching,
                slots=arguments.slots,
                workers=arguments.workers,
                images=arguments.images,
                reports=arguments.reports,
                gpu=arguments.gpu,
            )
    except ArchiveError as error:
        sys.exit(f"{error}")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if signer is not None:
        print(f"{signer.sign(path)}: signature")


if __name__ == "__main__":
    main()
