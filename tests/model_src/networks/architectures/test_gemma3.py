"""Gemma 3: a folder of `transformers` is imported exactly, and served reports equal `generate`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from export.import_checkpoint import import_checkpoint
from prelim.decoders.decoder import IMAGE
from prelim.errors import ArchiveError
from prelim.generation.options import GenerationOptions
from prelim.networks.model_folder import MODEL_CARD, read_network
from prelim.networks.trained_decoder import serving_decoder
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.model_src.networks.architectures.imported_folder import (
    CASES,
    Change,
    assert_reports_are,
    import_folder,
    package,
    pixel_values,
    serve_changed,
)
from tests.model_src.networks.architectures.small_gemma3 import (
    IMAGE_TOKEN,
    SIDE,
    TOKENS,
    VISION,
    VOCABULARY,
    WINDOW,
    originals_rows,
    prompt_ids,
    save_gemma3,
    small_gemma3,
)
from tests.tiny_model import png

PROMPT = "Is the heart enlarged?"


@pytest.fixture(scope="module")
def original() -> Any:
    """The model of `transformers`."""
    return small_gemma3()


@pytest.fixture(scope="module")
def checkpoint(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    return save_gemma3(original, tmp_path_factory.mktemp("gemma3") / "checkpoint")


@pytest.fixture(scope="module")
def folder(checkpoint: Path) -> Path:
    """The model folder of its import."""
    return import_folder("gemma3", checkpoint)


@pytest.fixture(scope="module")
def archive(folder: Path) -> Path:
    """The files of its archive."""
    return package(folder)


@pytest.fixture(scope="module")
def generator(archive: Path) -> ReportGenerator:
    """The archive, served."""
    return ReportGenerator.load(archive, slots=3)


def published_keys(folder: Path) -> None:
    """Rename the weights as google/gemma-3-4b-it has them."""
    path = folder / "model.safetensors"
    renamed = {}
    for key, value in load_file(path).items():
        inner = key.removeprefix("model.").replace("language_model.model.", "language_model.")
        inner = inner.replace("language_model.", "language_model.model.")
        renamed[
            inner.replace("vision_tower.", "vision_tower.vision_model.").replace("vision_model." * 2, "vision_model.")
        ] = value
    save_file(renamed, path)


def with_head(folder: Path) -> None:
    """Save the tied head too."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    (words,) = (value for key, value in weights.items() if key.endswith("embed_tokens.weight"))
    save_file({**weights, "lm_head.weight": words.clone()}, path)


CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one layer": {"text": {"num_hidden_layers": 1, "layer_types": ["full_attention"]}},
    "six layers by pattern": {"text": {"num_hidden_layers": 6, "layer_types": None}},
    "window of an image": {"text": {"sliding_window": TOKENS}},
    "long window": {"text": {"sliding_window": 200}},
    "biases": {"text": {"attention_bias": True}},
    "other scale": {"text": {"query_pre_attn_scalar": 12, "head_dim": 16}},
    "one head of keys": {"text": {"num_key_value_heads": 1}},
    "64 tokens an image": {"mm_tokens_per_image": 64},
    "4 tokens an image": {"mm_tokens_per_image": 4},
    "another tower": {"vision_config": {**VISION, "num_hidden_layers": 3, "layer_norm_eps": 1e-3}},
}


@pytest.mark.parametrize("rename", [lambda _: None, published_keys, with_head])
@pytest.mark.parametrize("name", CHANGES)
def test_folder_is_imported_exactly(rename: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    """Image embeddings, and logits as they are trained and as they are served, are those of `transformers`."""
    original = small_gemma3(**CHANGES[name])
    rename(save_gemma3(original, tmp_path / "checkpoint"))
    (tmp_path / "checkpoint" / "preprocessor_config.json").unlink()

    import_checkpoint("gemma3", [tmp_path / "checkpoint"], None, tmp_path / "model", "gemma3")

    _, network = read_network(tmp_path / "model")
    pixel_values = torch.randn(2, 3, SIDE, SIDE)
    report = torch.arange(6, 26)[None] * 7 % VOCABULARY
    with torch.inference_mode():
        expected = torch.stack(list(original.model.get_image_features(pixel_values).pooler_output))
        found = network.connector(network.vision(pixel_values))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        image = [IMAGE_TOKEN] * expected.shape[1]
        ids = torch.tensor([[1, 5, *image, 6, 7, *image, 8]])
        logits = logits_of_report(original, ids, pixel_values, report)
        prompt = torch.tensor([[1, 5, IMAGE, 6, 7, IMAGE, 8]])
        for decoder in (network.decoder, serving_decoder(network.decoder)):
            scores = decoder.teacher_forcing(found.flatten(0, 1)[None], prompt, report)
            torch.testing.assert_close(scores, logits, rtol=0, atol=1e-4)


def logits_of_report(original: Any, ids: Tensor, pixel_values: Tensor, report: Tensor) -> Tensor:
    """Logits of `transformers` for a given report after a prompt."""
    whole = torch.cat([ids, report[:, :-1]], dim=1)
    given = {"input_ids": whole, "pixel_values": pixel_values, "token_type_ids": (whole == IMAGE_TOKEN).long()}
    scores: Tensor = original(**given).logits[:, ids.shape[1] - 1 :]
    return scores


def test_card_says_what_was_assumed(folder: Path) -> None:
    """Nothing that the folder says is assumed."""
    card = (folder / MODEL_CARD).read_text(encoding="utf-8")

    assert "assumed: vision." not in card
    assert "assumed: decoder." not in card
    assert "assumed: preprocess." not in card


def options_of(name: str) -> GenerationOptions:
    """The options of a case; reports are longer than the windows."""
    return GenerationOptions(**{"max_new_tokens": 40, "min_new_tokens": 20, **CASES[name][1]})


def test_served_reports_equal_generate(
    original: Any, checkpoint: Path, folder: Path, generator: ReportGenerator
) -> None:
    """Token ids alone and in flight equal those of `generate`, which counts the prompt's ids in its penalties."""
    requests, expected = {}, {}
    for seed, (name, (count, _)) in enumerate(CASES.items()):
        images, options = tuple(png(seed + i) for i in range(count)), options_of(name)
        requests[name] = ReportRequest(images=images, prompt=PROMPT, options=options)
        ids = prompt_ids(checkpoint, PROMPT, count)
        expected[name] = originals_rows(original, pixel_values(folder, images), ids, options)

    assert_reports_are(generator, requests, expected)


def causal(config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Let the tokens of an image see only what is before them."""
    config["decoder"]["mutual_images"] = False


def longer(config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """A window that is too long by one."""
    config["decoder"]["window"] = WINDOW + 1


def shorter(config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """A window that is too short by one."""
    config["decoder"]["window"] = WINDOW - 1


def swapped(config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Layers with and without a window read each other's rotary table."""
    one, other = "inverse_frequencies", "window_frequencies"
    weights[one], weights[other] = weights[other], weights[one]


@pytest.mark.parametrize("change", [causal, longer, shorter, swapped])
def test_wrong_parts_are_noticed(original: Any, checkpoint: Path, archive: Path, change: Change) -> None:
    """With a part that differs, served reports are not those of `generate`."""
    options = options_of("penalty")

    (report,) = serve_changed(archive, change).generate([ReportRequest(image=png(2), prompt=PROMPT, options=options)])

    expected = originals_rows(
        original, pixel_values(archive.parent / "model", (png(2),)), prompt_ids(checkpoint, PROMPT, 1), options
    )
    assert isinstance(report, Report)
    assert list(report.token_ids) != expected[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_pan_and_scan": True}, "do_pan_and_scan = True"),
        ({"image_processor_type": "SiglipImageProcessor"}, "image_processor_type = 'SiglipImageProcessor'"),
        ({"size": {"height": 16, "width": 16}}, "size = "),
        ({"image_seq_length": 4}, "image_seq_length is 4"),
    ],
)
def test_other_preprocessing_is_refused_by_name(
    checkpoint: Path, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Crops of pan and scan would be further images."""
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")

    with pytest.raises(ArchiveError, match=message):
        import_checkpoint("gemma3", [tmp_path / "checkpoint"], None, tmp_path / "model", "gemma3")
