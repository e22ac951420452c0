"""System 0: its published size, its checkpoints in all their forms, and at reduced size the original's reports."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import BioGptConfig, BioGptForCausalLM

from export.export_onnx import export_onnx
from export.import_checkpoint import import_checkpoint
from export.package import write_files
from model_src.architectures import ARCHITECTURES
from model_src.architectures.architecture import Network
from model_src.archive import CONFIG, WEIGHTS
from model_src.errors import ArchiveError
from model_src.generation.options import GenerationOptions
from model_src.model_config import ModelConfig
from model_src.model_folder import Model, build_network
from model_src.preprocess import preprocess
from model_src.radiograph import read_radiograph
from model_src.report import Report
from model_src.report_generator import ReportGenerator, ReportRequest
from model_src.weights_file import read_weights
from tests.tiny_model import png

SYSTEM = "biomedclip_qformer_biogpt"
PUBLISHED = ARCHITECTURES[SYSTEM].published
TEXT_ONLY = 109_710_848 + 1 + 28_343_808
"""Parameters of BiomedCLIP's text tower and its logit scale, and of the Q-Former's feed-forward layers for text."""
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
LETTERS = "abcdefghijklmnopqrstuvwxyz ."
DECODER: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + len(LETTERS),
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "intermediate_size": 96,
    "max_position_embeddings": 120,
}
PARTS: dict[str, Any] = {
    "vision": {"size": 32, "patch": 16, "width": 64, "layers": 2, "heads": 1, "out_width": 24},
    "connector": {
        "in_width": 24,
        "out_width": 64,
        "queries": 32,
        "width": 128,
        "layers": 2,
        "heads": 2,
        "feedforward": 96,
    },
    "decoder": {"kind": "transformers", "model_type": "biogpt", **DECODER},
}


def small_network() -> Network:
    """A random network whose reports depend on the image, end now and then, and do not repeat one word only."""
    torch.manual_seed(0)
    network = ARCHITECTURES[SYSTEM].build(PARTS)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(0.05 if "embed_tokens" in name else 2.0) / parameter.shape[-1] ** 0.5)
        # The queries must not drown what they see: a published one has learned that.
        network.connector.query_tokens *= 0.1
        network.decoder.body.embed_tokens.weight *= 12
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def model() -> Model:
    """A small system 0."""
    defaults = PUBLISHED.defaults
    config = ModelConfig.from_mapping(
        {
            **defaults,
            **PARTS,
            "name": "small",
            "version": "1.0",
            "architecture": SYSTEM,
            "preprocess": {**defaults["preprocess"], "size": 32},
        },
        "test",
    )
    vocabulary = {piece: i for i, piece in enumerate([*SPECIAL, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[3]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    return Model(config, small_network(), tokenizer)


@pytest.fixture(scope="module")
def generator(model: Model, tmp_path_factory: pytest.TempPathFactory) -> ReportGenerator:
    """The served small model."""
    folder = tmp_path_factory.mktemp("archive")
    write_files(model, folder)
    return ReportGenerator.load(folder, slots=4)


def published_rule(model: Model, image: bytes, prompt: str, max_new_tokens: int) -> list[int]:
    """What the original would write: the arguments of its `generate`, the prompt behind the queries."""
    network = model.network
    language_model = BioGptForCausalLM(BioGptConfig(**DECODER)).eval()
    language_model.biogpt.load_state_dict(network.decoder.body.state_dict())
    pixels = preprocess(read_radiograph(image, model.config.input), model.config.preprocess)
    ids = [2, *(len(SPECIAL) + LETTERS.index(letter) for letter in prompt)] if prompt else []
    with torch.inference_mode():
        embeds = network.connector(network.vision(torch.from_numpy(pixels)[None]))
        if ids:
            embeds = torch.cat([embeds, language_model.get_input_embeddings()(torch.tensor([ids]))], dim=1)
    tokens = language_model.generate(
        inputs_embeds=embeds.clone(),
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
        max_new_tokens=max_new_tokens,
        min_length=20,
        num_beams=5,
        do_sample=False,
        repetition_penalty=1.5,
        length_penalty=2.0,
        no_repeat_ngram_size=3,
        eos_token_id=2,
        pad_token_id=1,
    )
    row: list[int] = tokens[0].tolist()
    return row[: row.index(2) + 1] if 2 in row else row


@pytest.mark.parametrize("prompt", ["", "heart"])
def test_served_report_equals_the_published_rule(model: Model, generator: ReportGenerator, prompt: str) -> None:
    """With the published preset the served token ids are those of `generate`, with a prompt and without."""
    options = GenerationOptions.from_mapping({"max_new_tokens": 24}, model.config.generation)
    requests = [ReportRequest(image=png(seed), prompt=prompt, options=options) for seed in range(4)]

    reports = [report for report in generator.generate(requests) if isinstance(report, Report)]

    assert [list(r.token_ids) for r in reports] == [published_rule(model, png(seed), prompt, 24) for seed in range(4)]
    assert len({report.text for report in reports}) > 2
    assert {report.finish_reason for report in reports} == {"eos", "length"}


def test_features_of_a_client_give_the_report_of_its_image(model: Model, generator: ReportGenerator) -> None:
    """One feature vector, as a client may keep it, stands for the image."""
    pixels = preprocess(read_radiograph(png(1), model.config.input), model.config.preprocess)
    features = model.network.vision(torch.from_numpy(pixels)[None])[0]
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
    """Text tower, logit scale and text feed-forward apart, the network has the published number of parameters."""
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
    """Vision encoder and connector give the same in ONNX, for batches of any size."""
    network = small_network()
    images = torch.randn(2, 3, 32, 32)
    features = network.vision(images)

    export_onnx(network.vision, images, tmp_path / "a.onnx", inputs="pixel_values", outputs="image_features")
    export_onnx(network.connector, features, tmp_path / "b.onnx", inputs="image_features", outputs="image_embeds")

    assert features.shape == (2, 24)
    assert network.connector(features).shape == (2, 32, 64)


def test_masked_features_are_not_seen() -> None:
    """Of several features of an image only those count that the mask leaves."""
    qformer = small_network().connector
    features = torch.randn(2, 7, 24)
    mask = torch.ones(2, 7)
    mask[:, 4:] = 0

    masked = qformer.query(features, mask)

    torch.testing.assert_close(masked, qformer.query(features[:, :4]))
    assert (masked - qformer.query(features)).abs().max() > 0.01
    torch.testing.assert_close(qformer.query(features[:, 0]), qformer.query(features[:, :1]))


def published_checkpoint() -> dict[str, Tensor]:
    """The small network as the original stores it, with all that it stores beside what we need."""
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


def imported(files: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    """The weights of the model folder that is made of these files."""
    for name, contents in files.items():
        torch.save(contents, folder / name)
    import_checkpoint(SYSTEM, [folder / name for name in files], None, folder / "model", "small")
    return read_weights(folder / "model" / WEIGHTS)


def in_components(checkpoint: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The component files, and the rest of the checkpoint."""
    prefixes = {"biomedclip_finetuned.pth": "biomedclip_encoder.model.", "biogpt_finetuned.pth": "biogpt_decoder."}
    files = {
        name: {key.removeprefix(prefix): value for key, value in checkpoint.items() if key.startswith(prefix)}
        for name, prefix in prefixes.items()
    }
    return {"rest.pth": {key: value for key, value in checkpoint.items() if key.startswith("qformer")}, **files}


@pytest.mark.parametrize("form", ["final", "data parallel", "epoch", "components"])
def test_every_form_of_the_checkpoint_is_imported(form: str, tmp_path: Path) -> None:
    """The final file, one of DataParallel, one of an epoch, and component files give the same model."""
    checkpoint = published_checkpoint()
    files: dict[str, Any] = {"final_model.pth": checkpoint}
    if form == "data parallel":
        files = {"final_model.pth": {f"module.{key}": value for key, value in checkpoint.items()}}
    if form == "epoch":
        files = {"checkpoint_epoch_3.pth": {"epoch": 3, "model_state_dict": checkpoint, "loss": 1.5, "config": {}}}
    if form == "components":
        files = in_components(checkpoint)

    weights = imported(files, tmp_path)

    expected = small_network().state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    config = ModelConfig.read(tmp_path / "model" / CONFIG)
    assert config.decoder == PARTS["decoder"]
    assert config.vision == PARTS["vision"]
    assert config.connector == PARTS["connector"]
    assert build_network(config)


def test_components_without_the_qformer_are_refused(tmp_path: Path) -> None:
    """BiomedCLIP and BioGPT alone are no model: the original would go on with an untrained Q-Former."""
    files = in_components(published_checkpoint())
    del files["rest.pth"]

    with pytest.raises(ArchiveError, match=r"connector\.query_tokens"):
        imported(files, tmp_path)


def test_output_projection_that_is_not_tied_is_refused(tmp_path: Path) -> None:
    """An output projection of its own, which the model has no place for, is not dropped in silence."""
    checkpoint = published_checkpoint()
    checkpoint["biogpt_decoder.output_projection.weight"] += 1

    with pytest.raises(ArchiveError, match=r"biogpt_decoder\.output_projection\.weight is not equal"):
        imported({"final_model.pth": checkpoint}, tmp_path)
