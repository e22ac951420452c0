"""The model folder that training writes, as prelim reads it and `make archive` takes it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer
from torch import Tensor

from prelim.archive.archive import CONFIDENCE, CONFIG, GATE, TOKENIZER, WEIGHTS
from prelim.archive.model_config import ModelConfig
from prelim.decoders.weights_file import check_weights, write_weights
from prelim.networks.model_folder import build_network


def write_config(folder: Path, description: Mapping[str, Any]) -> ModelConfig:
    """Write model.yaml and read it back.

    Only what differs from the defaults is written: the file is meant to be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Through JSON: the same object twice would be an anchor and a reference in YAML.
    plain = json.loads(json.dumps(dict(description)))
    text = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=120)
    (folder / CONFIG).write_text(text, encoding="utf-8")
    return ModelConfig.read(folder / CONFIG)


def write_folder(
    folder: Path, description: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: Tokenizer, dtype: str
) -> None:
    """Write model.yaml, model.safetensors and tokenizer.json, and remove gate and confidence of other weights.

    Raises ArchiveError where the weights are not those of the network that model.yaml describes.
    """
    config = write_config(folder, description)
    with torch.device("meta"):
        network = build_network(config)
    wanted = getattr(torch, dtype)
    stored = {name: value.to(wanted) if value.is_floating_point() else value for name, value in weights.items()}
    check_weights(network, stored, folder / WEIGHTS)
    write_weights(folder / WEIGHTS, stored)
    tokenizer.save(str(folder / TOKENIZER))
    (folder / GATE).unlink(missing_ok=True)
    (folder / CONFIDENCE).unlink(missing_ok=True)
