"""Reads and writes model folders, the output of training and import and the input of export.

model.yaml  model.safetensors  tokenizer.json  MODEL_CARD.md
gate.safetensors  confidence.json  (of models that have them)
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer
from torch import Tensor

from prelim.archive.archive import CONFIDENCE, CONFIG, GATE, TOKENIZER, WEIGHTS, load_tokenizer
from prelim.archive.manifest import sha256_of
from prelim.archive.model_config import ModelConfig
from prelim.decoders.weights_file import load_weights, read_weights, write_weights
from prelim.encoding.gate import MAKE, Gate, find_gate, hash_encoder
from prelim.errors import ArchiveError
from prelim.generation.confidence import MAKE as CALIBRATE
from prelim.generation.confidence import Confidence, read_confidence
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.architectures.architecture import Network

MODEL_CARD = "MODEL_CARD.md"

_COUNTS = ("heads", "steps", "_hidden_layers", "width", "feedforward", "_size", "positions", "max_position_embeddings")
"""Endings of names whose values are 1 or more. PyTorch builds networks of a negative number of heads."""


@dataclass(frozen=True)
class Model:
    """A model folder in memory; the network is in evaluation mode. `gate` and `confidence` are None without them."""

    config: ModelConfig
    network: Network
    tokenizer: Tokenizer
    gate: Gate | None = None
    confidence: Confidence | None = None


def build_network(config: ModelConfig, *, empty_decoder: bool = False) -> Network:
    """Build an untrained network from model.yaml; see `Architecture.build`."""
    if config.architecture not in ARCHITECTURES:
        raise ArchiveError(f"architecture is {config.architecture!r}; known: {', '.join(ARCHITECTURES)}")
    parts = {"vision": config.vision, "connector": config.connector, "decoder": config.decoder}
    for part, section in parts.items():
        for name, value in section.items():
            if name.endswith(_COUNTS) and isinstance(value, int) and value < 1:
                raise ArchiveError(f"{CONFIG}: {part}.{name} is {value!r}; allowed: integers of at least 1")
    try:
        return ARCHITECTURES[config.architecture].build(parts, empty_decoder=empty_decoder)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, StrictDataclassError) as error:
        raise ArchiveError(f"{CONFIG} does not describe a {config.architecture}: {error}") from error


def read_network(folder: Path, *, decoder_as_stored: bool = False) -> tuple[ModelConfig, Network]:
    """Read model.yaml and the network of a model folder, in float32.

    decoder_as_stored : the decoder keeps the dtypes of the file and stays memory-mapped

    Raises ArchiveError naming the faulty file.
    """
    config = ModelConfig.read(folder / CONFIG)
    network = build_network(config, empty_decoder=True)
    path = folder / WEIGHTS
    weights = {
        key: tensor.float()
        if tensor.is_floating_point() and not (decoder_as_stored and key.startswith("decoder."))
        else tensor
        for key, tensor in read_weights(path).items()
    }
    load_weights(network, weights, path)
    return config, network.eval().requires_grad_(False)


def read_model_folder(folder: Path, *, decoder_as_stored: bool = False, calibrated: bool = True) -> Model:
    """Read a model folder; see `read_network`. Raises ArchiveError naming the faulty file.

    calibrated : read its calibration, which must be of these weights
    """
    config, network = read_network(folder, decoder_as_stored=decoder_as_stored)
    confidence = _own_confidence(folder, config) if calibrated else None
    return Model(config, network, load_tokenizer(folder), _own_gate(folder, config), confidence)


def _own_gate(folder: Path, config: ModelConfig) -> Gate | None:
    """The gate of a model folder. Raises ArchiveError if it is of another encoder: the model was trained again, say."""
    gate = find_gate(folder)
    if gate is not None and gate.encoder.tobytes() != hash_encoder(config, read_weights(folder / WEIGHTS)):
        raise ArchiveError(
            f"{folder / GATE} is of another vision encoder or other preprocessing than those in {folder}; {MAKE}, or "
            "remove the file"
        )
    return gate


def hash_model(folder: Path, config: ModelConfig) -> str:
    """The sha256 of all that a report's log-probabilities and its image's distance depend on, as hexadecimal digits."""
    contents = config.to_mapping()
    described = {
        name: _as_calibrated(name, contents[name])
        for name in ("vision", "connector", "decoder", "preprocess", "precision", "prompt")
    }
    if contents["output"] is not None:
        described["output"] = contents["output"]
    if rounded := config.served_encoder.of_features:
        described["encoder"] = rounded
    digest = hashlib.sha256(json.dumps(described | {"render": config.input.render}, sort_keys=True).encode())
    for name in (WEIGHTS, TOKENIZER, GATE):
        if (folder / name).is_file():
            digest.update(bytes.fromhex(sha256_of(folder / name)))
    return digest.hexdigest()


_LATER: Mapping[str, Mapping[str, Any]] = {
    "preprocess": {"full_range": False, "min_pixels": None, "max_pixels": None},
    "prompt": {"strip_words": False, "missing": "", "views": {}},
}
"""Settings that are newer than the first calibrations, with their defaults."""


def _as_calibrated(section: str, contents: Any) -> Any:
    """A section without newer settings that have their defaults, so that they do not change the hash of a model."""
    later = _LATER.get(section, {})
    if not isinstance(contents, Mapping):
        return contents
    return {name: value for name, value in contents.items() if name not in later or value != later[name]}


def _own_confidence(folder: Path, config: ModelConfig) -> Confidence | None:
    """The calibration of a model folder. Raises ArchiveError if it is of another model: of a training before, say."""
    path = folder / CONFIDENCE
    if not path.is_file():
        return None
    confidence = read_confidence(path)
    if confidence.model != hash_model(folder, config):
        raise ArchiveError(f"{path} is of other weights, settings or another gate than those in {folder}; {CALIBRATE}")
    return confidence


def write_model_folder(folder: Path, config: ModelConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> None:
    """Write a model folder; the weights keep their dtype."""
    folder.mkdir(parents=True, exist_ok=True)
    config.write(folder / CONFIG)
    write_weights(folder / WEIGHTS, dict(weights))
    tokenizer.save(str(folder / TOKENIZER))
