"""Folders with random weights are those that `transformers` saves, and are imported as published ones are."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from benchmarks.models import random_folder
from benchmarks.models.random_checkpoint import BIOGPT_SPECIAL
from benchmarks.models.random_folder import FOLDERS, write_random_folder
from export.import_checkpoint import import_checkpoint
from prelim.networks.model_folder import read_network
from tests.model_src.networks.architectures import small_encoder_decoder as ved
from tests.model_src.networks.architectures import small_gemma3 as gemma3
from tests.model_src.networks.architectures import small_qwen2_5_vl as qwen
from tests.model_src.networks.architectures.edited_folders import FAMILIES

PUBLISHED = {
    "vit_gpt2": 239_195_904,
    "gemma3": 4_300_079_472,
    "qwen2_5_vl_7b": 8_292_166_656,
    "qwen2_5_vl_3b": 3_754_622_976,
}
"""Parameters of nlpconnect/vit-gpt2-image-captioning, google/gemma-3-4b-it and Qwen/Qwen2.5-VL, as their cards say."""


def build(name: str, layers: int | None = None, vision_layers: int | None = None) -> Any:
    """The model of a folder, without values."""
    with torch.device("meta"):
        model = getattr(transformers, FOLDERS[name].model_class)(FOLDERS[name].config(layers, vision_layers))
    model.tie_weights()
    return model


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    """By the number of parameters; a smaller number of layers is that of the decoder and of the encoder."""
    assert sum(parameter.numel() for parameter in build(name).parameters()) == PUBLISHED[name]
    few = build(name, 1, None if name == "vit_gpt2" else 2).config
    text = few.decoder if name == "vit_gpt2" else few.text_config
    assert text.num_hidden_layers == 1
    if name != "vit_gpt2":
        assert 2 in (getattr(few.vision_config, "depth", None), getattr(few.vision_config, "num_hidden_layers", None))


@dataclass(frozen=True)
class Small:
    """A small model of a family, built when it is needed, with what depends on its size."""

    family: str
    build: Callable[[], Any]
    tokens: int
    image_token: dict[int, str] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)


SMALL = {
    "swinv2_bert": Small(
        "encoder_decoder",
        partial(ved.small_encoder_decoder, "swinv2", "bert"),
        ved.VOCABULARY,
        processor={"size": {"height": ved.SIDE, "width": ved.SIDE}},
    ),
    "gemma3": Small("gemma3", gemma3.small_gemma3, gemma3.VOCABULARY, {gemma3.IMAGE_TOKEN: "<image_soft_token>"}),
    "qwen2_5_vl_3b": Small(
        "qwen2_5_vl", qwen.small_qwen, qwen.VOCABULARY, {qwen.IMAGE_TOKEN: "<|image_pad|>"}, qwen.PROCESSOR
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_folder_is_read_by_transformers_and_imported(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every parameter is in it, as transformers names it, and the import computes what transformers does with it."""
    small, kind = SMALL[name], FOLDERS[name]
    model = small.build()
    kind = replace(
        kind,
        config=lambda *_: model.config,
        special={**dict(enumerate(BIOGPT_SPECIAL)), **small.image_token},
        tokens=small.tokens,
        processor={**kind.processor, **small.processor},
    )
    monkeypatch.setattr(random_folder, "FOLDERS", {name: kind})

    count = write_random_folder(name, tmp_path / "checkpoint")

    read, found = type(model).from_pretrained(tmp_path / "checkpoint", dtype=torch.float32, output_loading_info=True)
    assert not any(found[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert count == read.num_parameters()
    import_checkpoint(kind.system, [tmp_path / "checkpoint"], tmp_path / "checkpoint", tmp_path / "model", name)
    network = read_network(tmp_path / "model")[1].float()
    with torch.inference_mode():
        expected, computed = FAMILIES[small.family].logits(read.eval(), network)
    assert (computed - expected).abs().max() < FAMILIES[small.family].within
