"""Models of the serving benchmark, and their archives with different settings."""

import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import ROOT
from benchmarks.memory.__main__ import with_precision
from benchmarks.models.random_model import write_random_model
from benchmarks.models.real_models import sample_images
from benchmarks.models.shapes import SHAPES, Shape, checkpoint
from benchmarks.serving.plain_handler.package import write_plain_archive
from prelim.archive.archive import CONFIG
from prelim.archive.encoder_config import EncoderConfig
from prelim.archive.manifest import write_manifest
from prelim.archive.mar import unpack_mar, write_mar
from prelim.archive.model_config import ModelConfig
from terminal.program import run_child, sign_of_life

MODEL_CONFIG = "model-config.yaml"
TORCHSERVE = "MAR-INF/MANIFEST.json"


@dataclass(frozen=True)
class Candidate:
    """A way to serve a model.

    name       : name in the table
    served     : name of the model in TorchServe
    precision  : of the decoder: ours as in model.yaml, the plain handler's as a PyTorch dtype
    settings   : differences from our model-config.yaml; None for the plain handler
    batch_size : maximum number of requests decoded together
    offered    : whether it gets open-loop loads too
    encoder    : of ours; None: fp32
    """

    name: str
    served: str
    precision: str
    settings: Mapping[str, Any] | None
    batch_size: int = 8
    offered: bool = True
    encoder: EncoderConfig | None = None


@dataclass(frozen=True)
class Subject:
    """A model served in several ways.

    tokens     : maximum length of a report
    decoder    : shape of the decoder of a model with random weights; None for models/demo
    vision, connector : its sections of model.yaml
    """

    name: str
    tokens: int
    candidates: tuple[Candidate, ...]
    decoder: Shape | None = None
    vision: Mapping[str, Any] = field(default_factory=dict)
    connector: Mapping[str, Any] = field(default_factory=dict)


IMAGES = 16
"""Radiographs that set the scales of 8 bits."""

DYNAMIC = {"continuousBatching": False}
_SECTION = SHAPES["biogpt"].section
EIGHT_BITS = EncoderConfig(precision="int8", connector="int8")
IN_OPENVINO = replace(EIGHT_BITS, runtime="openvino")

SUBJECTS = {
    # System 0 with a fifth of its parameters: encoder, connector and decoder are reduced about equally.
    "small": Subject(
        "small",
        128,
        (
            Candidate("in-flight, int8", "small_inflight", "int8_dynamic", {}),
            Candidate("dynamic, int8", "small_dynamic", "int8_dynamic", DYNAMIC),
            Candidate("in-flight, bf16", "small_inflight_bf16", "bf16", {}, offered=False),
            Candidate("plain, batch 1, bf16", "small_plain", "bfloat16", None, batch_size=1),
            Candidate("plain, batch 8, bf16", "small_plain8", "bfloat16", None),
        ),
        Shape(
            "serving",
            {
                **_SECTION,
                "hidden_size": 768,
                "num_hidden_layers": 6,
                "num_attention_heads": 12,
                "intermediate_size": 3072,
            },
        ),
        vision={"width": 384, "heads": 6},
        connector={"out_width": 768, "width": 384, "layers": 6, "heads": 6, "feedforward": 1536},
    ),
    "system0": Subject(
        "system0",
        128,
        (
            Candidate("in-flight, int8", "system0_inflight", "int8_dynamic", {}),
            Candidate("plain, batch 1, bf16", "system0_plain", "bfloat16", None, batch_size=1),
        ),
        SHAPES["biogpt"],
    ),
    # What `precision: auto` takes where it changes few enough tokens, which random weights cannot show.
    "report": Subject(
        "report",
        24,
        (
            Candidate("int8 encoder, int8_dynamic decoder", "chosen", "int8_dynamic", {}, encoder=EIGHT_BITS),
            Candidate("the encoder in OpenVINO", "openvino", "int8_dynamic", {}, encoder=IN_OPENVINO),
            Candidate("fp32, the default", "exact", "fp32", {}),
            Candidate("plain, batch 1, bf16", "plain", "bfloat16", None, batch_size=1),
        ),
        SHAPES["biogpt"],
    ),
    "demo": Subject(
        "demo",
        48,
        (
            Candidate("in-flight, fp32", "demo_inflight", "fp32", {}),
            Candidate("dynamic, fp32", "demo_dynamic", "fp32", DYNAMIC),
            Candidate("plain, batch 1, fp32", "demo_plain", "float32", None, batch_size=1),
            Candidate("plain, batch 8, fp32", "demo_plain8", "float32", None),
        ),
    ),
}
"""Name on the command line -> model."""


class Workshop:
    """Makes the archives of one model in a folder.

    store : folder of the decoders' checkpoints
    """

    def __init__(self, subject: Subject, folder: Path, store: Path) -> None:
        self.subject, self._folder = subject, folder
        self._checkpoint: Path | None = None
        self._packed: dict[tuple[str, EncoderConfig | None], Path] = {}
        if subject.decoder is None:
            self._model = ROOT / "models" / "demo"
            return
        self._checkpoint = checkpoint(subject.decoder, store)
        self._model = write_random_model(
            folder / subject.name,
            "biomedclip_qformer_biogpt",
            vision=subject.vision,
            connector=subject.connector,
            decoder=subject.decoder,
            store=store,
            # Only beams: the other published options would cost little in both.
            generation={"max_new_tokens": subject.tokens},
        )

    def make(self, candidate: Candidate, store: Path) -> Path:
        """Make the archive of a candidate in a folder that TorchServe serves."""
        store.mkdir(parents=True, exist_ok=True)
        if candidate.settings is not None:
            settings = {"batchSize": candidate.batch_size, **candidate.settings}
            return derive(self._package(candidate.precision, candidate.encoder), store, candidate.served, settings)
        networks = self._folder / "networks"
        with zipfile.ZipFile(
            next(packed for (_, encoder), packed in self._packed.items() if encoder is None)
        ) as archive:
            archive.extractall(networks, [name for name in archive.namelist() if Path(name).match("*.onnx*")])
        return write_plain_archive(
            self._model,
            networks,
            store,
            candidate.served,
            dtype=candidate.precision,
            batch_size=candidate.batch_size,
            checkpoint=self._checkpoint,
        )

    def _package(self, precision: str, encoder: EncoderConfig | None) -> Path:
        """Package the model in these precisions with export.package, once; scales of 8 bits are those of IMAGES."""
        if (precision, encoder) not in self._packed:
            copies = self._folder / f"copies{len(self._packed)}"
            copies.mkdir(exist_ok=True)
            model = with_precision(self._model, precision, copies)
            store = self._folder / f"packed{len(self._packed)}"
            command = [sys.executable, "-m", "export.package", str(model), "--store", str(store)]
            if encoder is not None:
                replace(ModelConfig.read(model / CONFIG), encoder=encoder).write(model / CONFIG)
                command += ["--images", str(self._write_images())]
            with sign_of_life(f"packaging {model.name}"):
                run_child(command, cwd=ROOT, stdout=subprocess.DEVNULL)
            self._packed[precision, encoder] = store / f"{model.name}.mar"
        return self._packed[precision, encoder]

    def _write_images(self) -> Path:
        """A folder of radiographs."""
        folder = self._folder / "images"
        folder.mkdir(exist_ok=True)
        for number, file in enumerate(sample_images(IMAGES)[1]):
            (folder / f"{number}").write_bytes(file)
        return folder


def derive(archive: Path, store: Path, name: str, settings: Mapping[str, Any]) -> Path:
    """Copy an archive with another name and other settings.

    settings : keys of model-config.yaml; keys of its section `prelim` are merged one by one
    """
    with tempfile.TemporaryDirectory(dir=store) as temporary:
        folder = Path(temporary)
        unpack_mar(archive, folder)
        config = yaml.safe_load((folder / MODEL_CONFIG).read_text(encoding="utf-8"))
        section = {**config["prelim"], **settings.get("prelim", {})}
        changed = yaml.safe_dump({**config, **settings, "prelim": section})
        (folder / MODEL_CONFIG).write_text(changed, encoding="utf-8")
        served = json.loads((folder / TORCHSERVE).read_text(encoding="utf-8"))
        served["model"]["modelName"] = name
        (folder / TORCHSERVE).write_text(json.dumps(served), encoding="utf-8")
        write_manifest(folder)
        return write_mar(folder, store / f"{name}.mar")
