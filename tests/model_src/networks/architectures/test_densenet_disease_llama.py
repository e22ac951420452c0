"""System 2 at reduced size: served reports equal the original's, and attention maps are returned."""

from pathlib import Path

import numpy as np
import pytest
import torch

from prelim.archive.archive import VISION
from prelim.decoders.decoder import IMAGE
from prelim.encoding.onnx_session import OnnxSession
from prelim.errors import InvalidOption
from prelim.images.preprocess import preprocess
from prelim.images.radiograph import read_radiograph
from prelim.networks.model_folder import Model
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.archives import write_files
from tests.model_src.networks.architectures.small_llama import DISEASES, WORDS, originals_report, small_model
from tests.tiny_model import png, seen


@pytest.fixture(scope="module")
def model() -> Model:
    """The model in PyTorch."""
    return small_model()


@pytest.fixture(scope="module")
def archive(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its archive, unpacked; the export itself compares ONNX with PyTorch."""
    folder = tmp_path_factory.mktemp("archive")
    write_files(model, folder)
    return folder


@pytest.fixture(scope="module")
def generator(archive: Path) -> ReportGenerator:
    """The archive, served."""
    return ReportGenerator.load(archive, slots=3)


def test_served_reports_equal_the_original(model: Model, generator: ReportGenerator) -> None:
    """With only an image, a batch of reports has the token ids of the original's generation."""
    images = [png(seed) for seed in range(5)]

    reports = generator.generate([ReportRequest(image=image) for image in images])

    expected = [originals_report(model, seen(model, image)) for image in images]
    assert [list(report.token_ids) for report in reports if isinstance(report, Report)] == expected
    assert len({tuple(tokens) for tokens in expected}) > 2


def test_prompt_follows_image_and_start_token(generator: ReportGenerator) -> None:
    """The decoder input is image tokens, start token and prompt, in this order."""
    prompter = generator._prompter

    assert prompter is not None
    assert prompter.ids("chest clear", None) == (IMAGE, 1, WORDS.index("chest"), WORDS.index("clear"))


def test_attention_is_returned_on_request(model: Model, archive: Path, generator: ReportGenerator) -> None:
    """`return_attention` adds a map for each disease, which sums to 1, and the classifier's scores."""
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
    features = OnnxSession(archive / VISION).run(torch.from_numpy(pixels[None]))
    expected = model.network.connector.disease_logits(features)[0]
    np.testing.assert_allclose(with_attention.insights["disease_logits"], expected.numpy(), rtol=1e-3, atol=1e-4)


def test_return_attention_without_maps_is_an_error(tiny_archive: Path) -> None:
    """With a model that has no maps, `return_attention` fails the request with the reason."""
    (error,) = ReportGenerator.load(tiny_archive).generate([ReportRequest(image=png(), return_attention=True)])

    assert isinstance(error, InvalidOption)
    assert "return_attention is true, but tiny has no attention map" in str(error)
