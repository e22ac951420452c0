"""The plan of a model: what is computed from shapes is what the files have and the networks do."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from export import plan
from export.footprint import Footprint, footprint
from export.package import write_decoder
from export.plan import footprint_of
from prelim.archive.archive import DECODER
from prelim.archive.model_config import ModelConfig
from prelim.errors import ArchiveError
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.machine import Machine
from prelim.networks.model_folder import Model, build_network
from tests.model_src.networks.architectures.small_encoder_decoder import (
    SIDE,
    VOCABULARY,
    save_encoder_decoder,
    small_encoder_decoder,
)
from tests.model_src.networks.architectures.small_llava import save_llava, small_llava
from tests.training.small_systems import MODELS

SPEEDS = Machine(read=1e8, copy=1e8, operations={"fp32": 1e9, "int8": 4e9})


def small_config(system: str, **values: Any) -> ModelConfig:
    """model.yaml of a system with small dimensions."""
    published = ARCHITECTURES[system].published.defaults
    sections = {**MODELS[system]}
    sections["decoder"] = {"vocab_size": 60, **sections["decoder"]}
    sections["preprocess"] = {**published.get("preprocess", {}), **sections.get("preprocess", {})}
    contents = {"name": "a", "version": "1.0", "architecture": system, **published, **sections, **values}
    return ModelConfig.from_mapping(contents, system)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("system", MODELS)
def test_weights_are_those_of_the_archive(system: str, precision: str, tmp_path: Path) -> None:
    """Without values the same bytes are counted as are written; image tokens are those of the networks."""
    config = small_config(system, precision=precision)
    network = build_network(config).eval()
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.vision.state_dict().values())
    size += sum(tensor.numel() * tensor.element_size() for tensor in network.connector.state_dict().values())
    p = config.preprocess
    with torch.inference_mode():
        embeds = network.connector(network.vision(torch.randn(1, p.channels, p.size, p.size)))
    write_decoder(Model(config, network, None), tmp_path)  # type: ignore[arg-type]

    needs = footprint(config, network)

    with safe_open(tmp_path / DECODER, "pt") as file:
        written = sum(file.get_tensor(name).numel() * file.get_tensor(name).element_size() for name in file.keys())  # noqa: SIM118
    assert (needs.encoder, needs.decoder) == (size, written)
    assert needs.image_tokens == embeds.shape[1]
    assert 0 < needs.largest < needs.decoder
    assert 0 < needs.step_bytes <= needs.decoder
    assert needs.activations >= embeds.numel() * embeds.element_size()


def test_operations_are_those_of_the_products() -> None:
    """Two operations for each weight and token, and for each element of attention."""
    needs = footprint(small_config("encoder_decoder"), build_network(small_config("encoder_decoder")))

    tokens, patches, width, hidden = 17, 16, 32, 48
    layer = tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width
    assert needs.image_operations == 2 * (patches * 3 * 8**2 * width + 2 * layer + tokens * width * 64)
    # The decoder: four matrices of each attention, of whose second two were used for the image; a head, words.
    attention, feedforward = 8 * 64**2, 2 * 64 * 96
    assert needs.step_operations == 2 * (2 * (attention + feedforward) + 64**2 + 60 * 64)


def test_attention_holds_its_weights_twice() -> None:
    """Scores of all pairs of tokens, before and after softmax, are in memory while an image is encoded."""
    tower = {"model_type": "siglip_vision_model", "image_size": 256, "patch_size": 8, "width": 8, "heads": 2}
    vision = {**tower, "layers": 1, "feedforward": 8, "features": [1], "class_token": True}
    config = small_config("llava")
    sections = {**config.to_mapping(), "vision": vision, "connector": {**config.connector, "in_width": 8}}
    whole = ModelConfig.from_mapping(
        {**sections, "preprocess": {**sections["preprocess"], "size": 256, "resize_to": None}}, "llava"
    )

    needs_of_it = footprint(whole, build_network(whole))

    scores = 2 * (256 // 8) ** 4 * 4
    assert 2 * scores < needs_of_it.activations < 2.2 * scores


def needs(**values: Any) -> Footprint:
    """A footprint of which only some values matter."""
    zeros = {field.name: 0 for field in dataclasses.fields(Footprint)}
    return Footprint(**{**zeros, "rows": 1, **values})


def test_a_step_is_bound_by_memory_or_by_arithmetic() -> None:
    """The larger of the two is taken, and a report has an image and its steps."""
    fast = needs(step_bytes=10**8, step_operations=10**6, tokens=5, image_operations=10**9)
    slow = needs(step_bytes=10**6, step_operations=10**9, rows=3)
    read = plan.plan(fast, SPEEDS, "int8", 1)

    assert (read.step, read.image, read.report) == (1.0, 1.0, 6.0)
    assert [plan.plan(slow, SPEEDS, precision, 1).step for precision in ("fp32", "int8_dynamic")] == [3.0, 0.75]


def test_each_request_has_a_cache() -> None:
    """Further requests cost their columns alone."""
    one, four = (plan.plan(needs(columns=10**6, image_columns=10**5), SPEEDS, "fp32", count) for count in (1, 4))

    assert four.worker - one.worker == pytest.approx(3 * 1.1e6)
    assert four.packaging == one.packaging


def test_weights_of_the_decoder_are_in_memory_once() -> None:
    """A worker has them in the file or packed, and both of one tensor at most; packaging has some rows of them."""
    large = plan.plan(needs(decoder=10**10, largest=2 * 10**9, encoder=10**8, activations=10**9), SPEEDS, "int8", 1)
    small = plan.plan(needs(decoder=10**8, encoder=10**8, activations=10**9, columns=10**7), SPEEDS, "int8", 3)

    assert large.worker == pytest.approx(plan.WORKER + 10**8 + 10**10 + 2 * 10**9)
    assert large.packaging == pytest.approx(plan.PACKAGING + 2 * 10**8 + 3 * 10**9)
    assert small.worker == pytest.approx(plan.WORKER + 2 * 10**8 + 10**9 + 3 * 10**7)
    alone = plan.plan(needs(decoder=10**10), SPEEDS, "int8", 1)
    assert alone.packaging == pytest.approx(plan.PACKAGING + plan.WRITING)
    tower = plan.plan(needs(encoder=10**10, activations=10**9), SPEEDS, "int8", 1)
    assert tower.packaging == pytest.approx(plan.PACKAGING + 3 * 10**10)


SAVED: Mapping[str, Any] = {
    "encoder_decoder": lambda folder: save_encoder_decoder(small_encoder_decoder("swinv2", "bert"), folder),
    "llava": lambda folder: save_llava(small_llava(), folder),
}


@pytest.mark.parametrize("system", SAVED)
def test_a_folder_is_planned_by_its_model_type(system: str, tmp_path: Path) -> None:
    """config.json names the system; its model folder gives the same plan."""
    SAVED[system](tmp_path / "checkpoint")

    config, needs_of_it = footprint_of([str(tmp_path / "checkpoint")], None, None)

    assert config.architecture == system
    config.write(tmp_path / "model.yaml")
    assert footprint_of([str(tmp_path)], None, None)[1] == needs_of_it
    assert footprint_of([str(tmp_path)], None, "int8")[1].decoder < needs_of_it.decoder


def test_a_folder_of_another_model_needs_its_system(tmp_path: Path) -> None:
    """A language model alone is a part of several systems."""
    save_encoder_decoder(small_encoder_decoder("vit", "gpt2"), tmp_path)
    path = tmp_path / "config.json"
    edited = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **edited}), "utf-8")

    with pytest.raises(ArchiveError, match=r"model_type 'llama'; give it with --system"):
        footprint_of([str(tmp_path)], None, None)


def test_command_prints_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """With the rates of a machine nothing is measured."""
    save_encoder_decoder(small_encoder_decoder("vit", "gpt2"), tmp_path, num_beams=3)
    monkeypatch.setattr("sys.argv", ["plan", str(tmp_path), "--gflops", "10", "--gbs", "5", "--requests", "2"])

    plan.main()

    printed = capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["plan", str(tmp_path), "--gflops", "10", "--gbs", "5", "--json"])
    plan.main()
    figures = json.loads(capsys.readouterr().out)
    assert figures["frontend"] == plan.FRONTEND
    assert 0 < figures["image"] < figures["report"]
    assert f"{(SIDE // 8) ** 2 + 1} image tokens; reports of 80 tokens with 3 beams, 2 requests at a time" in printed
    assert "| peak memory of a worker | 0." in printed
    assert VOCABULARY < 200
