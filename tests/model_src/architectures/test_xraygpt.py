"""System 3 at reduced size: the report that the original's rule gives, and conversations about one image."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList

from export.export_onnx import export_onnx
from export.llama_tokenizer import llama_tokenizer
from export.package import write_files
from model_src.architectures import ARCHITECTURES
from model_src.errors import ArchiveError
from model_src.generation.options import GenerationOptions
from model_src.model_config import ModelConfig
from model_src.model_folder import Model, build_network
from model_src.onnx_session import Array
from model_src.preprocess import preprocess
from model_src.radiograph import read_radiograph
from model_src.report import Report
from model_src.report_generator import ReportGenerator, ReportRequest
from tests.model_src.architectures.small_xraygpt import DECODER, LETTERS, PARTS, SPECIAL, small_model
from tests.tiny_model import png

LENGTH = 60
"""Tokens; the published 300 would only take longer."""


@pytest.fixture(scope="module")
def model() -> Model:
    """A small system 3."""
    return small_model()


@pytest.fixture(scope="module")
def generator(model: Model, tmp_path_factory: pytest.TempPathFactory) -> ReportGenerator:
    """The served small model."""
    folder = tmp_path_factory.mktemp("archive")
    write_files(model, folder)
    return ReportGenerator.load(folder, slots=4)


def one(generator: ReportGenerator, request: ReportRequest) -> Report:
    """The report of one request that must succeed."""
    (report,) = generator.generate([request])
    assert isinstance(report, Report), report
    return report


class StopAtHashes(StoppingCriteria):
    """The original's rule: the last tokens are those of the stop text."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> bool:
        """Whether to stop."""
        return input_ids[0, -3:].tolist() == encode("###")


def encode(text: str) -> list[int]:
    """One token a character."""
    return [len(SPECIAL) + LETTERS.index(letter) for letter in text]


def published_rule(model: Model, image: bytes, question: str, seed: int) -> list[int]:
    """What the original would write: its chat template cut at the image, `generate` on embeddings, its stop rule."""
    system = model.config.prompt.system  # type: ignore[union-attr]
    text = f"{system}###Patient: <Img><ImageHere></Img> {question}###Doctor:"
    before, after = ([*ids] for ids in map(encode, text.split("<ImageHere>")))
    network = model.network
    language_model = LlamaForCausalLM(LlamaConfig(vocab_size=PARTS["decoder"]["vocab_size"], **DECODER)).eval()
    language_model.model.load_state_dict(network.decoder.body.state_dict())
    language_model.lm_head.load_state_dict(network.decoder.lm_head.state_dict())
    pixels = preprocess(read_radiograph(image, model.config.input), model.config.preprocess)
    words = language_model.get_input_embeddings()
    with torch.inference_mode():
        image_embeds = network.connector(network.vision(torch.from_numpy(pixels)[None]))
        embeds = torch.cat([words(torch.tensor([[1, *before]])), image_embeds, words(torch.tensor([after]))], dim=1)
    torch.manual_seed(seed)
    tokens = language_model.generate(
        inputs_embeds=embeds.clone(),
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
        stopping_criteria=StoppingCriteriaList([StopAtHashes()]),
        max_new_tokens=LENGTH,
        num_beams=1,
        do_sample=True,
        min_length=1,
        top_p=0.9,
        repetition_penalty=1.0,
        length_penalty=1,
        temperature=1.0,
        eos_token_id=2,
        pad_token_id=2,
    )
    return tokens[0].tolist()


def test_served_report_equals_the_published_rule(model: Model, generator: ReportGenerator) -> None:
    """With the published preset the served token ids are those of `generate` with the original's prompt and stop."""
    seen = set()
    for seed in range(6):
        options = GenerationOptions.from_mapping({"seed": seed, "max_new_tokens": LENGTH}, model.config.generation)
        messages = ({"role": "user", "content": "Is the heart large?"},)

        report = one(generator, ReportRequest(image=png(seed), messages=messages, options=options))

        expected = published_rule(model, png(seed), "Is the heart large?", seed)
        assert list(report.token_ids) == expected
        assert "###" not in report.text
        seen.add(report.finish_reason)
    assert {"stop"} < seen


def test_questions_about_one_image_encode_it_once(generator: ReportGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later turns about an image take the features of the first, and answer as if they had encoded it themselves."""
    generator.reset()
    batches: list[int] = []
    run = generator._vision.run

    def counted(batch: Array) -> Array:
        batches.append(len(batch))
        return run(batch)

    monkeypatch.setattr(generator._vision, "run", counted)
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


def test_single_prompt_stands_in_the_training_template(generator: ReportGenerator) -> None:
    """A request without messages, with and without a prompt, gets the template that the model was trained with."""
    options = GenerationOptions(max_new_tokens=8)
    default = generator.config.prompt.default  # type: ignore[union-attr]

    reports = [one(generator, ReportRequest(image=png(), prompt=p, options=options)) for p in (None, default, "Heart?")]

    assert reports[0].token_ids == reports[1].token_ids != reports[2].token_ids


@pytest.mark.parametrize("tower", [{"tower": "resnet"}, {"tower": "medclip_swin", "width": 3}, {"layres": 2}])
def test_unknown_tower_or_dimension_is_named(model: Model, tower: dict[str, Any]) -> None:
    """model.yaml with a tower or a dimension that does not exist is refused."""
    contents = {**PARTS, "vision": tower, "name": "a", "version": "1", "architecture": "xraygpt"}
    config = ModelConfig.from_mapping({**ARCHITECTURES["xraygpt"].published.defaults, **contents}, "test")

    with pytest.raises(ArchiveError, match="does not describe a xraygpt"):
        build_network(config)


@pytest.mark.slow
@pytest.mark.parametrize("tower", ["medclip_swin", "medclip_resnet"])
def test_medclip_tower_exports_with_a_dynamic_batch(tower: str, tmp_path: Path) -> None:
    """Each of MedCLIP's towers is the same in ONNX for any batch, and gives 49 tokens an image."""
    torch.manual_seed(0)
    network = ARCHITECTURES["xraygpt"].vision(tower=tower).eval().requires_grad_(False)
    images = torch.randn(2, 3, 224, 224)

    export_onnx(network, images, tmp_path / "vision.onnx", inputs="pixel_values", outputs="image_features")

    assert network(images).shape == (2, 49, network.width)


def test_both_stop_tokenisations_of_the_shared_vocabulary_are_the_stop_text(shared: Path) -> None:
    """The two sequences of ids at which the original stops are, as text, the stop text."""
    tokenizer = llama_tokenizer(shared / "data" / "tokenizers" / "llama2")

    assert "###" in tokenizer.decode([835])
    assert "###" in tokenizer.decode([2277, 29937])
    assert "###" in tokenizer.decode([263, 2277, 29937])
