"""Qwen2.5-VL: a folder of `transformers` is imported exactly, and served reports equal `generate`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from export.import_checkpoint import import_checkpoint
from prelim.archive.archive import VISION
from prelim.decoders.decoder import IMAGE
from prelim.encoding.onnx_session import OnnxSession
from prelim.errors import ArchiveError, InvalidOption
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
from tests.model_src.networks.architectures.small_qwen2_5_vl import (
    IMAGE_TOKEN,
    UNIT,
    VOCABULARY,
    inputs_of,
    originals_rows,
    picture,
    processed,
    prompt_ids,
    save_qwen,
    small_qwen,
)

PROMPT = "Is the heart enlarged?"
SIZES = [(80, 56), (40, 90), (64, 64)]
"""Rows and columns of images: tall, wide and square."""


@pytest.fixture(scope="module")
def original() -> Any:
    """The model of `transformers`."""
    return small_qwen()


@pytest.fixture(scope="module")
def checkpoint(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    return save_qwen(original, tmp_path_factory.mktemp("qwen") / "checkpoint")


@pytest.fixture(scope="module")
def folder(checkpoint: Path) -> Path:
    """The model folder of its import."""
    return import_folder("qwen2_5_vl", checkpoint)


@pytest.fixture(scope="module")
def archive(folder: Path) -> Path:
    """The files of its archive."""
    return package(folder)


@pytest.fixture(scope="module")
def generator(archive: Path) -> ReportGenerator:
    """The archive, served."""
    return ReportGenerator.load(archive, slots=3)


def options_of(name: str) -> GenerationOptions:
    """The options of a case."""
    return GenerationOptions(**{"max_new_tokens": 30, "min_new_tokens": 20, **CASES[name][1]})


def test_served_reports_equal_generate(original: Any, checkpoint: Path, generator: ReportGenerator) -> None:
    """Token ids alone and in flight equal those of `generate`, for images of several sizes and their own processor."""
    requests, expected = {}, {}
    for seed, (name, (count, _)) in enumerate(CASES.items()):
        images = tuple(picture(seed + i, *SIZES[(seed + i) % len(SIZES)]) for i in range(count))
        requests[name] = ReportRequest(images=images, prompt=PROMPT, options=options_of(name))
        read = processed(checkpoint, images)
        ids = prompt_ids(checkpoint, PROMPT, read["image_grid_thw"])
        expected[name] = originals_rows(original, read, ids, options_of(name))

    assert generator.not_compiled is None
    assert_reports_are(generator, requests, expected)


def published_keys(folder: Path) -> None:
    """Rename the weights as Qwen/Qwen2.5-VL-7B-Instruct has them."""
    path = folder / "model.safetensors"
    weights = {
        key.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value
        for key, value in load_file(path).items()
    }
    save_file(weights, path)


def inner_keys(folder: Path) -> None:
    """Rename them as they are in memory."""
    published_keys(folder)
    path = folder / "model.safetensors"
    parts = {"model.": "model.language_model.", "visual.": "model.visual.", "lm_head.": "lm_head."}
    weights = {}
    for key, value in load_file(path).items():
        start = next(part for part in parts if key.startswith(part))
        weights[parts[start] + key.removeprefix(start)] = value
    save_file(weights, path)


def flat_config(folder: Path) -> None:
    """Write the settings of the language model as the published folders have them, without a section."""
    published_keys(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    old = {"rope_theta": rope.pop("rope_theta"), "rope_scaling": {**rope, "type": "mrope"}}
    del old["rope_scaling"]["rope_type"]
    del text["model_type"]
    config["vision_config"]["model_type"] = "qwen2_5_vl"
    path.write_text(json.dumps({**text, **old, **config}), encoding="utf-8")


CHANGES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "one layer": {"text": {"num_hidden_layers": 1}},
    "one head of keys": {"text": {"num_key_value_heads": 1}},
    "other sections": {
        "text": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "mrope_section": [4, 1, 3]}}
    },
    "more sections": {
        "text": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2, 1, 2, 1]}}
    },
    "linear rotation": {
        "text": {
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
        }
    },
    "words tied": {"tie_word_embeddings": True},
    "all layers whole": {"vision": {"fullatt_block_indexes": [0, 1]}},
    "all layers in windows": {"vision": {"fullatt_block_indexes": []}},
    "windows of one token": {"vision": {"window_size": UNIT}},
    "large windows": {"vision": {"window_size": 20 * UNIT}},
    "one patch a token": {"vision": {"spatial_merge_size": 1, "patch_size": UNIT, "window_size": 2 * UNIT}},
    "another tower": {"vision": {"depth": 3, "num_heads": 4, "temporal_patch_size": 1}},
}


SAMPLED = ("as it is", "more sections", "one patch a token")


@pytest.mark.parametrize(
    ("rename", "name"),
    [
        *((rename, "as it is") for rename in (inner_keys, flat_config)),
        *((None, name) for name in SAMPLED),
        *(pytest.param(None, name, marks=pytest.mark.exhaustive) for name in CHANGES if name not in SAMPLED),
        *(pytest.param(flat_config, name, marks=pytest.mark.exhaustive) for name in ("words tied", "more sections")),
    ],
)
def test_folder_is_imported_exactly(rename: Callable[[Path], None] | None, name: str, tmp_path: Path) -> None:
    """Image embeddings, and logits as they are trained and as they are served, are those of `transformers`."""
    original = small_qwen(**CHANGES[name])
    folder = save_qwen(original, tmp_path / "checkpoint")
    sides = original.config.vision_config
    path = folder / "preprocessor_config.json"
    changed = {name: getattr(sides, name) for name in ("patch_size", "temporal_patch_size")}
    settings = {**json.loads(path.read_text(encoding="utf-8")), **changed, "merge_size": sides.spatial_merge_size}
    path.write_text(json.dumps(settings), encoding="utf-8")
    if rename is not None:
        rename(folder)

    import_checkpoint("qwen2_5_vl", [folder], None, tmp_path / "model", "qwen")

    _, network = read_network(tmp_path / "model")
    files = [picture(seed, *size) for seed, size in enumerate(SIZES)]
    images = processed(folder, files)
    report = torch.arange(6, 26)[None] * 7 % VOCABULARY
    with torch.inference_mode():
        expected = original.model.get_image_features(images["pixel_values"], images["image_grid_thw"]).pooler_output
        found = [network.connector(network.vision(pixel_values(tmp_path / "model", [file])))[0] for file in files]
        for theirs, ours in zip(expected, found, strict=True):
            torch.testing.assert_close(ours.flatten(0, 1), theirs, rtol=0, atol=1e-4)
        prompt = [t for embeds in found for t in (5, 7, *[IMAGE] * embeds.shape[:2].numel(), 6)] + [8, 9]
        prompt_ids = torch.tensor([prompt])
        logits = logits_of_report(original, prompt_ids.masked_fill(prompt_ids == IMAGE, IMAGE_TOKEN), images, report)
        grids = [(embeds.shape[0], embeds.shape[1]) for embeds in found]
        embeds = torch.cat([one.flatten(0, 1) for one in found])[None]
        for decoder in (network.decoder, serving_decoder(network.decoder)):
            scores = decoder.teacher_forcing(embeds, prompt_ids, report, grids)
            torch.testing.assert_close(scores, logits, rtol=0, atol=1e-4)


def logits_of_report(original: Any, ids: Tensor, images: dict[str, Tensor], report: Tensor) -> Tensor:
    """Logits of `transformers` for a given report after a prompt."""
    whole = torch.cat([ids, report[:, :-1]], dim=1)
    scores: Tensor = original(**inputs_of(whole, images)).logits[:, ids.shape[1] - 1 :]
    return scores


def test_card_says_what_was_assumed(folder: Path) -> None:
    """Nothing that the folder says is assumed."""
    card = (folder / MODEL_CARD).read_text(encoding="utf-8")

    assert "assumed: vision." not in card
    assert "assumed: decoder." not in card
    assert "assumed: preprocess." in card  # do_resize and the like, which processors leave out


def sections(config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Rows turn what time should."""
    config["decoder"]["rotary_sections"] = [0, 5, 3]


def in_the_text(config: dict[str, Any], weights: dict[str, Tensor]) -> None:
    """Positions are those in the text."""
    config["decoder"]["rotary_sections"] = []


@pytest.mark.parametrize("change", [sections, in_the_text])
def test_wrong_parts_are_noticed(original: Any, checkpoint: Path, archive: Path, change: Change) -> None:
    """With a part that differs, served reports are not those of `generate`."""
    image, options = picture(2, 80, 56), options_of("penalty")

    (report,) = serve_changed(archive, change).generate([ReportRequest(image=image, prompt=PROMPT, options=options)])

    read = processed(checkpoint, [image])
    expected = originals_rows(original, read, prompt_ids(checkpoint, PROMPT, read["image_grid_thw"]), options)
    assert isinstance(report, Report)
    assert list(report.token_ids) != expected[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type = 'CLIPImageProcessor'"),
        ({"patch_size": 14}, "patch_size = 14"),
        ({"merge_size": 1}, "merge_size = 1"),
        ({"temporal_patch_size": 1}, "temporal_patch_size = 1"),
        ({"do_resize": False}, "do_resize = False"),
        ({"max_pixels": 100}, "max_pixels is 100"),
        ({"max_pixels": "large"}, "max_pixels = 'large'"),
        ({"size": {"height": 16, "width": 16}}, "size = "),
        ({"min_pixels": None, "size": {"longest_edge": 5000}}, "size = "),
        ({"do_pan_and_scan": True}, "do_pan_and_scan = True"),
    ],
)
def test_other_preprocessing_is_refused_by_name(
    checkpoint: Path, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """What would be computed otherwise than the folder's processor does is not imported."""
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")

    with pytest.raises(ArchiveError, match=message):
        import_checkpoint("qwen2_5_vl", [tmp_path / "checkpoint"], None, tmp_path / "model", "qwen")


def test_features_of_a_client_have_a_grid(generator: ReportGenerator, archive: Path) -> None:
    """They give the report of their image; of another shape, or too many, they are refused."""
    image, options = picture(1, 80, 56), GenerationOptions(max_new_tokens=12)
    session = OnnxSession(archive / VISION)
    features = session.run(pixel_values(archive.parent / "model", [image]))[0].numpy()

    one, other = generator.generate(
        [ReportRequest(image=image, options=options), ReportRequest(image_features=features, options=options)]
    )

    assert isinstance(one, Report)
    assert isinstance(other, Report)
    assert one.token_ids == other.token_ids
    for wrong in (features.reshape(-1, features.shape[-1]), features[..., :-1], np.tile(features, (3, 3, 1))):
        with pytest.raises(InvalidOption, match="rows x columns up to"):
            raise_error(generator.generate([ReportRequest(image_features=wrong, options=options)])[0])


def raise_error(outcome: Any) -> None:
    """Raise what a request ended with."""
    if isinstance(outcome, Exception):
        raise outcome
