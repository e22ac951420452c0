"""LLaVA: a folder of `transformers` is imported exactly, and served reports equal `generate`."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from export.import_checkpoint import import_checkpoint
from prelim.archive.archive import CONFIG
from prelim.archive.manifest import write_manifest
from prelim.decoders.decoder import IMAGE
from prelim.errors import InputError
from prelim.generation.options import GenerationOptions
from prelim.networks.model_folder import MODEL_CARD, read_network
from prelim.networks.trained_decoder import serving_decoder
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.model_src.networks.architectures.imported_folder import (
    assert_reports_are,
    import_folder,
    package,
    pixel_values,
    serve,
)
from tests.model_src.networks.architectures.small_llava import (
    DINOV2,
    IMAGE_TOKEN,
    SIDE,
    SIGLIP,
    originals_ids,
    save_llava,
    small_llava,
)
from tests.tiny_model import png

PROMPT = "Is the heart enlarged?"
OPTIONS = GenerationOptions(max_new_tokens=40)
BEFORE, AFTER = "USER: ", "\n{prompt} ASSISTANT:"


@pytest.fixture(scope="module")
def original() -> Any:
    """The model of `transformers`."""
    return small_llava()


@pytest.fixture(scope="module")
def folder(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of its import."""
    path = tmp_path_factory.mktemp("llava")
    save_llava(original, path / "checkpoint")
    return import_folder("llava", path / "checkpoint")


@pytest.fixture(scope="module")
def archive(folder: Path) -> Path:
    """The files of its archive."""
    return package(folder)


@pytest.fixture(scope="module")
def generator(archive: Path) -> ReportGenerator:
    """The archive, served."""
    return ReportGenerator.load(archive, slots=3)


def old_keys(folder: Path) -> None:
    """Rename the weights as the published llava-1.5-7b-hf has them."""
    path = folder / "model.safetensors"
    save_file({k.replace("vision_tower.", "vision_tower.vision_model."): v for k, v in load_file(path).items()}, path)


def new_keys(folder: Path) -> None:
    """Rename the weights as the model's state_dict has them today."""
    path = folder / "model.safetensors"
    renamed = {}
    for key, value in load_file(path).items():
        inner = key.replace("language_model.model.", "language_model.")
        renamed["lm_head.weight" if "lm_head" in key else f"model.{inner}"] = value
    save_file(renamed, path)


@pytest.mark.parametrize("rename", [lambda _: None, old_keys, new_keys])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"vision_feature_layer": -1},
        {"vision_feature_layer": [-2, 1], "vision_feature_select_strategy": "full"},
        {"projector_hidden_act": "relu", "multimodal_projector_bias": False},
        {"text": {"model_type": "mistral", "sliding_window": None}},
        {"text": {"model_type": "qwen2"}},
        {"text": {"model_type": "phi"}},
        {"text": {"model_type": "qwen3", "head_dim": 8}},
        {"vision_config": SIGLIP, "vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
        {"vision_config": SIGLIP, "vision_feature_layer": [2, 4]},
        {"vision_config": DINOV2, "vision_feature_layer": -1},
        {"vision_config": DINOV2, "vision_feature_layer": -3, "vision_feature_select_strategy": "full"},
    ],
)
def test_folder_is_imported_exactly(rename: Callable[[Path], None], changed: dict[str, Any], tmp_path: Path) -> None:
    """Image features and logits differ by 0 from those of `transformers`, whatever the keys and settings are."""
    original = small_llava(**changed)
    rename(save_llava(original, tmp_path / "checkpoint"))

    import_checkpoint("llava", [tmp_path / "checkpoint"], None, tmp_path / "model", "llava")

    _, network = read_network(tmp_path / "model")
    pixel_values = torch.randn(2, 3, SIDE, SIDE)
    ids = torch.arange(3, 15)[None]
    with torch.inference_mode():
        expected = torch.stack(list(original.model.get_image_features(pixel_values).pooler_output))
        found = network.connector(network.vision(pixel_values))
        logits = network.decoder.logits(network.decoder.body(input_ids=ids).last_hidden_state)
        assert (found - expected).abs().max() == 0
        assert (logits - original(input_ids=ids).logits).abs().max() == 0


def test_card_says_what_was_ignored_and_assumed(folder: Path) -> None:
    """Unused layers are ignored with the reason; nothing that config.json says is assumed."""
    card = (folder / MODEL_CARD).read_text(encoding="utf-8")

    assert "the image features are from an earlier layer" in card
    assert "vision_tower.encoder.layers.3." in card
    assert "assumed: the decoder's last 4 rows are padding" in card
    assert "assumed: input, prompt of model.yaml as in the published model" in card
    assert "assumed: vision." not in card
    assert "assumed: decoder." not in card


def test_preprocessing_is_that_of_the_folder(folder: Path) -> None:
    """preprocessor_config.json gives size, mean and standard deviation."""
    config = read_network(folder)[0].preprocess

    assert (config.size, config.resize, config.interpolation) == (SIDE, "shortest_edge", "bicubic")
    assert (config.mean, config.std) == ((0.5, 0.4, 0.3), (0.3, 0.2, 0.2))


CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "greedy": (1, {}),
    "another image": (1, {}),
    "penalty": (1, {"repetition_penalty": 1.3}),
    "ban": (1, {"no_repeat_ngram_size": 2}),
    "two beams": (1, {"num_beams": 2, "repetition_penalty": 1.5}),
    "three beams": (2, {"num_beams": 3, "no_repeat_ngram_size": 3, "num_return_sequences": 2}),
    "four beams": (2, {"num_beams": 4, "early_stopping": True, "length_penalty": 0.5, "repetition_penalty": 0.9}),
    "five beams": (1, {"num_beams": 5, "repetition_penalty": 1.2, "no_repeat_ngram_size": 2}),
    "sampling": (1, {"do_sample": True, "seed": 3, "top_p": 0.9, "repetition_penalty": 1.2}),
    "beam sampling": (2, {"do_sample": True, "seed": 4, "num_beams": 2, "no_repeat_ngram_size": 4}),
}
"""Number of images, and options."""


def test_served_reports_equal_generate(original: Any, folder: Path, generator: ReportGenerator) -> None:
    """Token ids alone and in flight equal those of `generate`, which counts the prompt's ids in its penalties."""
    requests, expected = {}, {}
    after = AFTER.replace("{prompt}", PROMPT)
    for seed, (name, (count, changed)) in enumerate(CASES.items()):
        images = tuple(png(seed + i) for i in range(count))
        options = GenerationOptions(**{"max_new_tokens": 40, "min_new_tokens": 20, **changed})
        requests[name] = ReportRequest(images=images, prompt=PROMPT, options=options)
        expected[name] = originals_ids(original, pixel_values(folder, images), BEFORE, after, options)

    assert_reports_are(generator, requests, expected)


FAMILIES: dict[str, dict[str, Any]] = {
    "SigLIP and Phi": {
        "text": {"model_type": "phi"},
        "vision_config": SIGLIP,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    },
    "CLIP and Qwen2": {"text": {"model_type": "qwen2"}},
    "CLIP and Qwen3": {"text": {"model_type": "qwen3", "head_dim": 16}},
    "DINOv2 and Llama": {"vision_config": DINOV2, "vision_feature_layer": -1},
    "CLIP and Mistral": {"text": {"model_type": "mistral", "sliding_window": None}, "vision_feature_layer": [-2, 1]},
}


SAMPLED, *OTHERS = FAMILIES


@pytest.mark.parametrize("name", [SAMPLED, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in OTHERS)])
def test_other_towers_and_language_models_equal_generate(name: str, tmp_path: Path) -> None:
    """Imported, packaged and decoded in flight, with logits of the original up to rounding."""
    original = small_llava(**FAMILIES[name])
    save_llava(original, tmp_path / "checkpoint")
    folder = import_folder("llava", tmp_path / "checkpoint")
    after = AFTER.replace("{prompt}", PROMPT)
    requests, expected = [], []
    for seed, (count, changed) in enumerate(CASES.values()):
        images = tuple(png(seed + i) for i in range(count))
        options = GenerationOptions(**{"max_new_tokens": 30, "min_new_tokens": 20, **changed})
        requests.append(ReportRequest(images=images, prompt=PROMPT, options=options))
        expected += [originals_ids(original, pixel_values(folder, images), BEFORE, after, options)[0]]

    reports = serve(folder).generate(requests)

    assert [list(report.token_ids) for report in reports if isinstance(report, Report)] == expected
    assert min(len({*ids}) for ids in expected) >= 10
    _, network = read_network(folder)
    ids, report_ids = torch.tensor([[1, IMAGE, 9, 8]]), torch.tensor([expected[0]])
    values = pixel_values(folder, [png(0)])
    with torch.inference_mode():
        embeds = network.connector(network.vision(values))
        found = serving_decoder(network.decoder).teacher_forcing(embeds, ids, report_ids)
        whole = torch.tensor([[1, *[IMAGE_TOKEN] * embeds.shape[1], 9, 8, *expected[0]]])
        theirs = original(input_ids=whole, pixel_values=values).logits[:, -1 - report_ids.shape[1] : -1]
    assert (found - theirs).abs().max() < 1e-4


def test_several_end_tokens_equal_generate(original: Any, tmp_path: Path) -> None:
    """Those of generation_config.json end a report, greedy and with beams."""
    (greedy,) = originals_ids(original, torch.zeros(1, 3, SIDE, SIDE), BEFORE, "x", GenerationOptions(max_new_tokens=9))
    ends = [2, greedy[5], greedy[7]]
    save_llava(original, tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": ends}), encoding="utf-8")

    folder = import_folder("llava", tmp_path / "checkpoint")

    served = serve(folder)
    after = AFTER.replace("{prompt}", PROMPT)
    lengths = set()
    for beams in (1, 3):
        for seed in range(3):
            options = GenerationOptions(max_new_tokens=40, num_beams=beams)
            request = ReportRequest(image=png(seed), prompt=PROMPT, options=options)
            seen = pixel_values(folder, [png(seed)])
            expected = originals_ids(original, seen, BEFORE, after, options, eos_token_id=ends)
            (report,) = served.generate([request])
            assert isinstance(report, Report)
            assert [list(report.token_ids)] == expected
            lengths.add(report.token_ids[-1])
    assert len(lengths) > 1


@pytest.mark.parametrize("name", ["penalty", "five beams"])
def test_prompt_that_does_not_count_is_noticed(
    original: Any, folder: Path, archive: Path, name: str, tmp_path: Path
) -> None:
    """Served as if `generate` had been given embeddings, the reports are others."""
    shutil.copytree(archive, tmp_path, dirs_exist_ok=True)
    config = yaml.safe_load((tmp_path / CONFIG).read_text(encoding="utf-8"))
    del config["decoder"]["image_token_id"]
    (tmp_path / CONFIG).write_text(yaml.safe_dump(config), encoding="utf-8")
    write_manifest(tmp_path)
    options = GenerationOptions(**{"max_new_tokens": 40, "min_new_tokens": 20, **CASES[name][1]})

    (report,) = ReportGenerator.load(tmp_path).generate([ReportRequest(image=png(2), prompt=PROMPT, options=options)])

    expected = originals_ids(
        original, pixel_values(folder, [png(2)]), BEFORE, AFTER.replace("{prompt}", PROMPT), options
    )
    assert isinstance(report, Report)
    assert list(report.token_ids) != expected[0]


def test_several_images_equal_generate(original: Any, folder: Path, generator: ReportGenerator) -> None:
    """Two images are read one after the other, with the text of model.yaml between them, as `generate` reads them."""
    images = (png(0), png(1))

    (both, swapped, first) = generator.generate(
        [
            ReportRequest(images=images, prompt=PROMPT, options=OPTIONS),
            ReportRequest(images=images[::-1], prompt=PROMPT, options=OPTIONS),
            ReportRequest(images=images[:1], prompt=PROMPT, options=OPTIONS),
        ]
    )

    assert isinstance(both, Report)
    assert isinstance(swapped, Report)
    assert isinstance(first, Report)
    after = AFTER.replace("{prompt}", PROMPT)
    for report, of_report in ((both, images), (swapped, images[::-1]), (first, images[:1])):
        assert [list(report.token_ids)] == originals_ids(
            original, pixel_values(folder, of_report), BEFORE, after, OPTIONS
        )
    assert both.token_ids != swapped.token_ids


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ReportRequest(images=()), "there is no image"),
        (ReportRequest(images=(b"",) * 3), "images has 3 entries; this model reads 1 to 2"),
        (ReportRequest(images=(b"",), image=b"a"), "image and images are both given"),
        (ReportRequest(images=(b"",) * 2, roles=("frontal", "prior")), "roles has prior, but this model"),
        (ReportRequest(images=(b"",) * 2, roles=("frontal",)), "roles has 1 entries for 2 images"),
    ],
)
def test_numbers_of_images_that_are_refused(generator: ReportGenerator, request_: ReportRequest, message: str) -> None:
    """Too many images, none, and two ways to send them are errors of that request."""
    (error,) = generator.generate([request_])

    assert isinstance(error, InputError)
    assert message in str(error)


def test_images_with_roles_are_read_in_the_order_of_the_prompt(
    archive: Path, generator: ReportGenerator, tmp_path: Path
) -> None:
    """However they are sent; with the words of two images without roles the report is theirs."""
    shutil.copytree(archive, tmp_path, dirs_exist_ok=True)
    config = yaml.safe_load((tmp_path / CONFIG).read_text(encoding="utf-8"))
    config["prompt"] |= {"max_images": 1, "accepts": {"lateral": "\n{lateral}", "prior": " before: {prior}"}}
    (tmp_path / CONFIG).write_text(yaml.safe_dump(config), encoding="utf-8")
    write_manifest(tmp_path)
    with_roles = ReportGenerator.load(tmp_path, slots=3)
    frontal, lateral, prior = (png(seed) for seed in range(3))

    def report(of: ReportGenerator, images: tuple[bytes, ...], *roles: str) -> Report | Exception:
        return of.generate([ReportRequest(images=images, roles=roles or None, prompt=PROMPT, options=OPTIONS)])[0]

    all_three = report(with_roles, (frontal, lateral, prior), "frontal", "lateral", "prior")
    again = report(with_roles, (prior, frontal, lateral), "prior", "frontal", "lateral")
    two = report(with_roles, (lateral, frontal), "lateral", "frontal")
    without = report(generator, (frontal, lateral))
    assert isinstance(all_three, Report)
    assert isinstance(again, Report)
    assert isinstance(two, Report)
    assert isinstance(without, Report)
    assert all_three.token_ids == again.token_ids != two.token_ids == without.token_ids
    assert "reads 1, or frontal, lateral, prior by their roles" in str(report(with_roles, (frontal, lateral)))

    # A phrase that the model's own options ban is about priors: a report on one may have it.
    word = next(iter(re.findall(r"[a-z]{2,}", all_three.text)))
    banned = dataclasses.replace(OPTIONS, banned_phrases=(word,))
    with_roles.config = dataclasses.replace(with_roles.config, generation=banned)
    for roles, has_prior in ((("frontal", "lateral", "prior"), True), (("frontal", "lateral"), False)):
        images = (frontal, lateral, prior)[: len(roles)]
        (of_defaults,) = with_roles.generate([ReportRequest(images=images, roles=roles, prompt=PROMPT)])
        assert isinstance(of_defaults, Report)
        assert (of_defaults.token_ids == all_three.token_ids) == has_prior
        assert has_prior or word not in re.findall(r"\w+", of_defaults.text)
