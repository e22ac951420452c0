"""System 0: its published size, all forms of its checkpoints, and at reduced size the original's reports."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.export_onnx import export_onnx
from export.import_checkpoint import import_checkpoint
from prelim.archive.archive import CONFIG, WEIGHTS
from prelim.archive.model_config import ModelConfig
from prelim.decoders.weights_file import read_weights
from prelim.errors import ArchiveError
from prelim.generation.options import GenerationOptions
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.model_folder import Model, build_network
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.archives import write_files
from tests.model_src.networks.architectures.small_biogpt import (
    PARTS,
    SYSTEM,
    published_rule,
    small_model,
    small_network,
)
from tests.tiny_model import png, seen

TEXT_ONLY = 109_710_848 + 1 + 28_343_808
"""Number of parameters of BiomedCLIP's text tower and logit scale, and of the Q-Former's text branch."""


@pytest.fixture(scope="module")
def model() -> Model:
    """A small system 0."""
    return small_model()


@pytest.fixture(scope="module")
def generator(model: Model, tmp_path_factory: pytest.TempPathFactory) -> ReportGenerator:
    """The small model, served."""
    folder = tmp_path_factory.mktemp("archive")
    write_files(model, folder)
    return ReportGenerator.load(folder, slots=4)


@pytest.mark.parametrize("prompt", ["", "heart"])
def test_served_report_equals_the_published_rule(model: Model, generator: ReportGenerator, prompt: str) -> None:
    """With the published options the served token ids equal those of `generate`, with and without a prompt."""
    options = GenerationOptions.from_mapping({"max_new_tokens": 24}, model.config.generation)
    requests = [ReportRequest(image=png(seed), prompt=prompt, options=options) for seed in range(4)]

    reports = [report for report in generator.generate(requests) if isinstance(report, Report)]

    assert [list(r.token_ids) for r in reports] == [
        published_rule(model, seen(model, png(seed)), prompt, 24) for seed in range(4)
    ]
    assert len({report.text for report in reports}) > 2
    assert {report.finish_reason for report in reports} == {"eos", "length"}


def test_features_can_replace_the_image(model: Model, generator: ReportGenerator) -> None:
    """Features that a client saved give the same report as their image."""
    features = seen(model, png(1))[0]
    options = GenerationOptions(max_new_tokens=12)

    from_image, from_features = generator.generate(
        [
            ReportRequest(image=png(1), options=options),
            ReportRequest(image_features=features.numpy(), options=options),
        ]
    )

    assert isinstance(from_image, Report)
    assert isinstance(from_features, Report)
    assert from_image.token_ids == from_features.token_ids
    assert float(features.norm()) == pytest.approx(1)


def test_published_size() -> None:
    """The network has the published number of parameters, except text tower, logit scale and text feed-forward."""
    decoder = {
        "kind": "transformers",
        "model_type": "biogpt",
        "vocab_size": 42384,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 1024,
    }
    with torch.device("meta"):
        network = ARCHITECTURES[SYSTEM].build({"vision": {}, "connector": {}, "decoder": decoder})

    assert sum(parameter.numel() for parameter in network.parameters()) == 626_173_185 - TEXT_ONLY


def test_exported_networks_equal_pytorch(tmp_path: Path) -> None:
    """Vision encoder and connector compute the same in ONNX, for any batch size."""
    network = small_network()
    images = torch.randn(2, 3, 32, 32)
    features = network.vision(images)

    export_onnx(network.vision, images, tmp_path / "a.onnx", inputs="pixel_values", outputs="image_features")
    export_onnx(network.connector, features, tmp_path / "b.onnx", inputs="image_features", outputs="image_embeds")

    assert features.shape == (2, 24)
    assert network.connector(features).shape == (2, 32, 64)


def test_masked_features_are_ignored() -> None:
    """Features excluded by the mask do not change the output."""
    qformer = small_network().connector
    features = torch.randn(2, 7, 24)
    mask = torch.ones(2, 7)
    mask[:, 4:] = 0

    masked = qformer.query(features, mask)

    torch.testing.assert_close(masked, qformer.query(features[:, :4]))
    assert (masked - qformer.query(features)).abs().max() > 0.01
    torch.testing.assert_close(qformer.query(features[:, 0]), qformer.query(features[:, :1]))


def published_checkpoint() -> dict[str, Tensor]:
    """A checkpoint of the small network in the original's format, including the keys that we ignore."""
    ours = small_network().state_dict()
    names = (
        ("vision.trunk.", "biomedclip_encoder.model.visual.trunk."),
        ("vision.proj.", "biomedclip_encoder.model.visual.head.proj."),
        ("connector.proj.", "qformer_output_to_biogpt_input_projection."),
        ("connector.encoder.layer.", "qformer.bert_encoder.layer."),
        ("connector.", "qformer."),
        ("attention.attention.", "attention.self."),
        ("decoder.body.", "biogpt_decoder.biogpt."),
    )
    published = {}
    for key, value in ours.items():
        for name, replacement in names:
            key = key.replace(name, replacement)  # noqa: PLW2901
        published[key] = value.clone()
    embeddings = published["biogpt_decoder.biogpt.embed_tokens.weight"]
    return published | {
        "biogpt_decoder.output_projection.weight": embeddings.clone(),
        "biomedclip_encoder.model.logit_scale": torch.ones(()),
        "biomedclip_encoder.model.text.transformer.embeddings.position_ids": torch.arange(8)[None],
        "qformer.bert_encoder.layer.0.intermediate.dense.weight": torch.ones(96, 128),
        "qformer.bert_encoder.layer.0.output.dense.weight": torch.ones(128, 96),
    }


def import_files(files: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    """Import these files; returns the weights of the model folder."""
    for name, contents in files.items():
        torch.save(contents, folder / name)
    import_checkpoint(SYSTEM, [folder / name for name in files], None, folder / "model", "small")
    return read_weights(folder / "model" / WEIGHTS)


def split_components(checkpoint: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Split a checkpoint into the component files and the rest."""
    prefixes = {"biomedclip_finetuned.pth": "biomedclip_encoder.model.", "biogpt_finetuned.pth": "biogpt_decoder."}
    files = {
        name: {key.removeprefix(prefix): value for key, value in checkpoint.items() if key.startswith(prefix)}
        for name, prefix in prefixes.items()
    }
    return {"rest.pth": {key: value for key, value in checkpoint.items() if key.startswith("qformer")}, **files}


@pytest.mark.parametrize("form", ["final", "data parallel", "epoch", "components"])
def test_every_form_of_the_checkpoint_is_imported(form: str, tmp_path: Path) -> None:
    """The final file, a DataParallel file, an epoch's checkpoint and component files give the same model."""
    checkpoint = published_checkpoint()
    files: dict[str, Any] = {"final_model.pth": checkpoint}
    if form == "data parallel":
        files = {"final_model.pth": {f"module.{key}": value for key, value in checkpoint.items()}}
    if form == "epoch":
        files = {"checkpoint_epoch_3.pth": {"epoch": 3, "model_state_dict": checkpoint, "loss": 1.5, "config": {}}}
    if form == "components":
        files = split_components(checkpoint)

    weights = import_files(files, tmp_path)

    expected = small_network().state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    config = ModelConfig.read(tmp_path / "model" / CONFIG)
    assert config.decoder == PARTS["decoder"]
    assert config.vision == PARTS["vision"]
    assert config.connector == PARTS["connector"]
    assert build_network(config)


def test_components_without_the_qformer_are_refused(tmp_path: Path) -> None:
    """Only BiomedCLIP and BioGPT are an error; the original would continue with an untrained Q-Former."""
    files = split_components(published_checkpoint())
    del files["rest.pth"]

    with pytest.raises(ArchiveError, match=r"size: qformer\.query_tokens, "):
        import_files(files, tmp_path)


def test_untied_output_projection_is_refused(tmp_path: Path) -> None:
    """An untied output projection, which the model does not support, is not silently ignored."""
    checkpoint = published_checkpoint()
    checkpoint["biogpt_decoder.output_projection.weight"] += 1

    with pytest.raises(ArchiveError, match=r"biogpt_decoder\.output_projection\.weight is not equal"):
        import_files({"final_model.pth": checkpoint}, tmp_path)
