"""System 3 at reduced size: served reports equal the original's, and conversations about one image."""

from pathlib import Path
from typing import Any

import pytest
import torch

from export.export_onnx import export_onnx
from export.tokenizers.llama import llama_tokenizer
from prelim.archive.model_config import ModelConfig
from prelim.encoding.onnx_session import Array
from prelim.errors import ArchiveError
from prelim.generation.options import GenerationOptions
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.model_folder import Model, build_network
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.archives import write_files
from tests.model_src.networks.architectures.small_xraygpt import PARTS, published_rule, small_model
from tests.tiny_model import png, seen

LENGTH = 60
"""In tokens; fewer than the published 300, for speed."""


@pytest.fixture(scope="module")
def model() -> Model:
    """A small system 3."""
    return small_model()


@pytest.fixture(scope="module")
def generator(model: Model, tmp_path_factory: pytest.TempPathFactory) -> ReportGenerator:
    """The small model, served."""
    folder = tmp_path_factory.mktemp("archive")
    write_files(model, folder)
    return ReportGenerator.load(folder, slots=4)


def one(generator: ReportGenerator, request: ReportRequest) -> Report:
    """Generate the report of one request, which must succeed."""
    (report,) = generator.generate([request])
    assert isinstance(report, Report), report
    return report


def test_served_report_equals_the_published_rule(model: Model, generator: ReportGenerator) -> None:
    """With the published options the served token ids equal `generate` with the original's prompt and stop rule."""
    reasons = set()
    for seed in range(6):
        options = GenerationOptions.from_mapping({"seed": seed, "max_new_tokens": LENGTH}, model.config.generation)
        messages = ({"role": "user", "content": "Is the heart large?"},)

        report = one(generator, ReportRequest(image=png(seed), messages=messages, options=options))

        expected = published_rule(model, seen(model, png(seed)), "Is the heart large?", seed, LENGTH)
        assert list(report.token_ids) == expected
        assert "###" not in report.text
        reasons.add(report.finish_reason)
    assert {"stop"} < reasons


def test_questions_about_one_image_encode_it_once(generator: ReportGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later turns about an image reuse the cached features, and give the same answers as encoding it again."""
    generator.reset()
    batches: list[int] = []
    run = generator._images._vision.run

    def count(batch: Array) -> Array:
        batches.append(len(batch))
        return run(batch)

    monkeypatch.setattr(generator._images._vision, "run", count)
    options = GenerationOptions(max_new_tokens=12)
    first = {"role": "user", "content": "Report."}
    image = png(3)

    report = one(generator, ReportRequest(image=image, messages=(first,), options=options))
    answered = {"role": "assistant", "content": "clear"}
    turns = (first, answered, {"role": "user", "content": "Sure?"})
    second = one(generator, ReportRequest(image=image, messages=turns, options=options))
    again = one(generator, ReportRequest(image=image, messages=(first,), options=options))
    assert batches == [1]
    generator.reset()
    fresh = one(generator, ReportRequest(image=image, messages=turns, options=options))

    assert batches == [1, 1]
    assert again.token_ids == report.token_ids
    assert fresh.token_ids == second.token_ids
    assert second.token_ids != report.token_ids


def test_single_prompt_uses_the_training_template(generator: ReportGenerator) -> None:
    """A request without messages, with or without a prompt, uses the training template."""
    options = GenerationOptions(max_new_tokens=8)
    default = generator.config.prompt.default  # type: ignore[union-attr]

    reports = [one(generator, ReportRequest(image=png(), prompt=p, options=options)) for p in (None, default, "Heart?")]

    assert reports[0].token_ids == reports[1].token_ids != reports[2].token_ids


@pytest.mark.parametrize("tower", [{"tower": "resnet"}, {"tower": "medclip_swin", "width": 3}, {"layres": 2}])
def test_unknown_tower_or_dimension_is_named(model: Model, tower: dict[str, Any]) -> None:
    """An unknown tower or dimension in model.yaml is an error."""
    contents = {**PARTS, "vision": tower, "name": "a", "version": "1", "architecture": "xraygpt"}
    config = ModelConfig.from_mapping({**ARCHITECTURES["xraygpt"].published.defaults, **contents}, "test")

    with pytest.raises(ArchiveError, match="does not describe a xraygpt"):
        build_network(config)


@pytest.mark.parametrize("tower", ["medclip_swin", "medclip_resnet"])
def test_medclip_towers_give_49_tokens_for_any_batch(tower: str) -> None:
    """An image gets the same tokens alone and among others."""
    network = medclip(tower)
    images = torch.randn(2, 3, 224, 224)

    together = network(images)

    assert together.shape == (2, 49, network.width)
    torch.testing.assert_close(network(images[1:]), together[1:], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("tower", [pytest.param("medclip_swin", marks=pytest.mark.exhaustive), "medclip_resnet"])
def test_medclip_tower_exports_with_a_dynamic_batch(tower: str, tmp_path: Path) -> None:
    """Both MedCLIP towers compute the same in ONNX for any batch size."""
    images = torch.randn(2, 3, 224, 224)

    export_onnx(medclip(tower), images, tmp_path / "vision.onnx", inputs="pixel_values", outputs="image_features")


def medclip(tower: str) -> Any:
    """A tower of MedCLIP with random weights."""
    torch.manual_seed(0)
    return ARCHITECTURES["xraygpt"].vision(tower=tower).eval().requires_grad_(False)


def test_both_stop_sequences_decode_to_the_stop_text_with_the_shared_vocabulary(shared: Path) -> None:
    """The original's two stop sequences of ids both decode to the stop text."""
    tokenizer = llama_tokenizer(shared / "data" / "tokenizers" / "llama2")

    assert "###" in tokenizer.decode([835])
    assert "###" in tokenizer.decode([2277, 29937])
    assert "###" in tokenizer.decode([263, 2277, 29937])
