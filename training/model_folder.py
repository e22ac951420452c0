"""The model folder that training writes, as model_src reads it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer
from torch import Tensor

from model_src.archive import CONFIG, TOKENIZER, WEIGHTS
from model_src.model_config import ModelConfig
from model_src.weights_file import write_weights
from training.settings import Settings
from training.wordpiece import BOS, EOS, PAD


def describe(settings: Settings, vocab_size: int) -> dict[str, Any]:
    """The contents of model.yaml for a network trained with these settings."""
    return {
        "name": settings.name,
        "version": settings.version,
        "licence": settings.licence,
        "architecture": settings.architecture,
        "vision": {},
        "connector": {"width": settings.width},
        "decoder": {
            "kind": "cross_attention",
            "vocab_size": vocab_size,
            "width": settings.width,
            "layers": settings.layers,
            "heads": settings.heads,
            "feedforward": settings.feedforward,
            "max_positions": settings.max_positions,
            "dropout": settings.dropout,
            "pad_token_id": PAD,
        },
        "tokenizer": {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD},
        "input": {"modalities": ["CR", "DX", "RG"], "render": "voi"},
        "preprocess": {
            "size": settings.image_size,
            "channels": 3,
            "resize": "stretch",
            "interpolation": "bilinear",
            "antialias": True,
            "mean": [settings.mean] * 3,
            "std": [settings.std] * 3,
        },
        "generation": {"max_new_tokens": settings.max_new_tokens},
    }


def write_config(folder: Path, description: Mapping[str, Any]) -> ModelConfig:
    """Write model.yaml and read it back, so that a mistake in it shows before the training and not after.

    Only what differs from the defaults is written: the file is meant to be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(dict(description), sort_keys=False, default_flow_style=None, width=120)
    (folder / CONFIG).write_text(text, encoding="utf-8")
    return ModelConfig.read(folder / CONFIG)


def write_folder(
    folder: Path, description: Mapping[str, Any], weights: Mapping[str, Tensor], tokenizer: Tokenizer
) -> None:
    """Write model.yaml, model.safetensors and tokenizer.json; weights as float16, which halves them."""
    write_config(folder, description)
    stored = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    write_weights(folder / WEIGHTS, stored)
    tokenizer.save(str(folder / TOKENIZER))
