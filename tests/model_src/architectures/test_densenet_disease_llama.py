"""System 2 at reduced size: import of its checkpoints and the report that the original's rule gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from export.package import write_files
from model_src.archive import VISION
from model_src.decoders.decoder import IMAGE
from model_src.errors import InvalidOption
from model_src.model_config import ModelConfig
from model_src.model_folder import Model, build_network
from model_src.onnx_session import OnnxSession
from model_src.preprocess import preprocess
from model_src.radiograph import read_radiograph
from model_src.report import Report
from model_src.report_generator import ReportGenerator, ReportRequest
from tests.model_src.architectures.small_llama import DIMENSIONS, DISEASES, PROMPT, PUBLISHED, WORDS
from tests.tiny_model import png

IMAGE_SIZE, TOKENS = 64, 4
LENGTH = 48
"""The original's max_length, which counts image, start token and prompt."""


def small_model() -> Model:
    """A random model whose reports depend on the image."""
    prefix = DISEASES + 1 + len(PROMPT.split())
    defaults = PUBLISHED.defaults
    config = ModelConfig.from_mapping(
        {
            **defaults,
            "name": "small",
            "version": "1.0",
            "architecture": "densenet_disease_llama",
            "vision": {},
            "connector": {"width": DIMENSIONS["hidden_size"], "num_tokens": TOKENS, "diseases": DISEASES},
            "decoder": {"kind": "transformers", "model_type": "llama", "vocab_size": len(WORDS) + 1, **DIMENSIONS},
            "tokenizer": {**defaults["tokenizer"], "pad_token_id": len(WORDS)},
            "preprocess": {**defaults["preprocess"], "size": IMAGE_SIZE},
            "generation": {**defaults["generation"], "max_new_tokens": LENGTH - prefix},
            "prompt": {**defaults["prompt"], "default": PROMPT},
        },
        "test",
    )
    torch.manual_seed(0)
    network = build_network(config)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1 and not name.startswith("vision."):
            torch.nn.init.normal_(parameter, std=2.0 / parameter.shape[-1] ** 0.5)
    # An untrained encoder is nearly blind until its batch norms have seen what images differ in.
    with torch.no_grad():
        for module in network.vision.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        images = torch.randn(16, 1, IMAGE_SIZE, IMAGE_SIZE).cumsum(2).cumsum(3)
        network.vision.train()
        network.vision((images / images.std()).expand(-1, 3, -1, -1))
    words = {word: i for i, word in enumerate([*WORDS, "<PAD>"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([*WORDS[:3], "<PAD>"])
    tokenizer.decoder = decoders.WordPiece()
    return Model(config, network.eval().requires_grad_(False), tokenizer)


@pytest.fixture(scope="module")
def model() -> Model:
    """The model in PyTorch."""
    return small_model()


@pytest.fixture(scope="module")
def archive(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its archive, unpacked; that the ONNX files equal PyTorch is checked as they are written."""
    folder = tmp_path_factory.mktemp("archive")
    write_files(model, folder)
    return folder


@pytest.fixture(scope="module")
def generator(archive: Path) -> ReportGenerator:
    """What serves the archive."""
    return ReportGenerator.load(archive, slots=3)


def originals_report(model: Model, image: bytes) -> list[int]:
    """Token ids of the original's `generate`, its options and its way to count lengths included."""
    pixels = preprocess(read_radiograph(image, model.config.input), model.config.preprocess)
    words = model.tokenizer.encode(PROMPT, add_special_tokens=False).ids
    decoder = model.network.decoder
    language_model = LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS) + 1, **DIMENSIONS)).eval()
    language_model.model.load_state_dict(decoder.body.state_dict())
    language_model.lm_head.load_state_dict(decoder.lm_head.state_dict())
    with torch.inference_mode():
        visual = model.network.connector(model.network.vision(torch.from_numpy(pixels[None])))
        embeds = torch.cat([visual, language_model.model.embed_tokens(torch.tensor([[1, *words]]))], dim=1)
        tokens = language_model.generate(
            inputs_embeds=embeds,
            attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
            max_length=LENGTH,
            num_beams=5,
            early_stopping=True,
            no_repeat_ngram_size=2,
            eos_token_id=2,
            pad_token_id=len(WORDS),
        )
    return tokens[0].tolist()


def test_served_reports_are_those_of_the_original(model: Model, generator: ReportGenerator) -> None:
    """With nothing but an image, a batch of reports has the token ids of the original's generation."""
    images = [png(seed) for seed in range(5)]

    reports = generator.generate([ReportRequest(image=image) for image in images])

    expected = [originals_report(model, image) for image in images]
    assert [list(report.token_ids) for report in reports if isinstance(report, Report)] == expected
    assert len({tuple(tokens) for tokens in expected}) > 2


def test_prompt_follows_image_and_start_token(generator: ReportGenerator) -> None:
    """The decoder reads the image's tokens, the start token and the prompt's words, in this order."""
    prompter = generator._prompter

    assert prompter is not None
    assert prompter.ids("chest clear", None) == (IMAGE, 1, WORDS.index("chest"), WORDS.index("clear"))


def test_attention_is_returned_on_request(model: Model, archive: Path, generator: ReportGenerator) -> None:
    """`return_attention` adds a map for each disease, which sums to 1, and the classifier's scores; else neither."""
    (with_attention, without) = generator.generate(
        [ReportRequest(image=png(), return_attention=True), ReportRequest(image=png())]
    )

    assert isinstance(with_attention, Report)
    assert isinstance(without, Report)
    assert with_attention.token_ids == without.token_ids
    assert without.insights == {}
    attention = with_attention.insights["attention"]
    assert attention.shape == (DISEASES, 2, 2)
    np.testing.assert_allclose(attention.sum((1, 2)), 1, rtol=1e-5)
    pixels = preprocess(read_radiograph(png(), model.config.input), model.config.preprocess)
    features = torch.from_numpy(OnnxSession(archive / VISION).run(pixels[None]))
    expected = model.network.connector.disease_logits(features)[0]
    np.testing.assert_allclose(with_attention.insights["disease_logits"], expected.numpy(), rtol=1e-3, atol=1e-4)


def test_model_without_attention_says_so(tiny_archive: Path) -> None:
    """`return_attention` to a model that has no map fails this request with the reason."""
    (error,) = ReportGenerator.load(tiny_archive).generate([ReportRequest(image=png(), return_attention=True)])

    assert isinstance(error, InvalidOption)
    assert "return_attention is true, but tiny has no attention map" in str(error)
