"""Model folders with random weights, for benchmarks that do not depend on the weights."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.models.imported import import_checkpoint
from benchmarks.models.random_checkpoint import write_random_tokenizer
from benchmarks.models.shapes import Shape, checkpoint
from prelim.archive.archive import load_tokenizer
from prelim.archive.model_config import ModelConfig
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.model_folder import build_network, write_model_folder

_SEED = 0


def write_random_model(
    folder: Path,
    system: str,
    *,
    vision: Mapping[str, Any],
    connector: Mapping[str, Any],
    decoder: Shape,
    store: Path,
    **values: Any,
) -> Path:
    """Write a model folder of a system, with a made-up vocabulary; the model is named after the folder.

    vision, connector : sections of model.yaml
    decoder           : its weights come from the checkpoint of this shape, which peers read too
    store             : folder of such checkpoints
    values            : values of model.yaml that replace the published ones
    """
    contents = {
        **ARCHITECTURES[system].published.defaults,
        "name": folder.name,
        "version": "1.0",
        "architecture": system,
        "vision": vision,
        "connector": connector,
        "decoder": decoder.section,
        **values,
    }
    config = ModelConfig.from_mapping(contents, str(folder))
    torch.manual_seed(_SEED)
    network = build_network(config, empty_decoder=True)
    weights = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("decoder.")}
    of_decoder = import_checkpoint(checkpoint(decoder, store), decoder).state_dict()
    weights |= {f"decoder.{name}": tensor for name, tensor in of_decoder.items()}
    with tempfile.TemporaryDirectory() as temporary:
        write_random_tokenizer(Path(temporary), decoder.section["vocab_size"])
        tokenizer = load_tokenizer(Path(temporary))
    write_model_folder(folder, config, weights, tokenizer)
    return folder
