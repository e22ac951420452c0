"""LLaVA-Med 1.5 in the form of LLaVA's own code: imported exactly, and served reports equal `generate`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from prelim.generation.options import GenerationOptions
from prelim.networks.model_folder import read_network
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.model_src.networks.architectures.imported_folder import import_folder, serve
from tests.model_src.networks.architectures.small_llava import SIDE
from tests.model_src.networks.architectures.small_llava_mistral import (
    SEARCHES,
    ids_of_embeddings,
    save_original,
    small_llava_mistral,
)
from tests.tiny_model import png

PROMPT = "Is the heart enlarged?"


@pytest.fixture(scope="module")
def original() -> Any:
    """The same network of `transformers`."""
    return small_llava_mistral()


@pytest.fixture(scope="module")
def folder(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of its import."""
    path = tmp_path_factory.mktemp("llava_mistral")
    save_original(original, path / "checkpoint")
    return import_folder("llava_mistral", path / "checkpoint")


@pytest.fixture(scope="module")
def generator(folder: Path) -> ReportGenerator:
    """Its archive, served."""
    return serve(folder)


def test_folder_is_imported_exactly(original: Any, folder: Path) -> None:
    """Image features and logits differ by 0 from those of `transformers`; images are padded to a square."""
    config, network = read_network(folder)
    pixel_values = torch.randn(2, 3, SIDE, SIDE)
    ids = torch.arange(3, 15)[None]
    with torch.inference_mode():
        expected = torch.stack(list(original.model.get_image_features(pixel_values).pooler_output))
        assert (network.connector(network.vision(pixel_values)) - expected).abs().max() == 0
        logits = network.decoder.logits(network.decoder.body(input_ids=ids).last_hidden_state)
        assert (logits - original(input_ids=ids).logits).abs().max() == 0
    assert (config.preprocess.resize, config.preprocess.size) == ("pad_mean", SIDE)
    assert config.prompt is not None
    assert (config.prompt.before, config.prompt.after) == ("[INST] ", "\n{prompt} [/INST]")


@SEARCHES
def test_served_reports_equal_generate(
    original: Any, folder: Path, generator: ReportGenerator, changed: dict[str, Any]
) -> None:
    """LLaVA's code gives `generate` embeddings, so that the prompt does not count in penalties."""
    options = GenerationOptions(max_new_tokens=30, **changed)

    (report,) = generator.generate([ReportRequest(image=png(3), prompt=PROMPT, options=options)])

    expected = ids_of_embeddings(original, folder, png(3), ("[INST] ", f"\n{PROMPT} [/INST]"), options)
    assert isinstance(report, Report)
    assert list(report.token_ids) == expected
    assert len({*report.token_ids}) >= 10
