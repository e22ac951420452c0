"""BLIP: a folder of `transformers` is imported exactly, and served reports equal `generate`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BlipForConditionalGeneration

from export.import_checkpoint import import_checkpoint
from prelim.generation.options import GenerationOptions
from prelim.networks.model_folder import read_network
from prelim.report import Report
from prelim.report_generator import ReportRequest
from tests.model_src.networks.architectures.imported_folder import import_folder, pixel_values, serve
from tests.model_src.networks.architectures.small_blip import (
    END,
    PAD,
    SIDE,
    START,
    VOCABULARY,
    captions,
    save_blip,
    small_blip,
)
from tests.tiny_model import png

NEW_TOKENS = {"min_new_tokens": 18, "max_new_tokens": 30}
DECODINGS: dict[str, dict[str, Any]] = {
    "greedy": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 3},
    "4 beams": {"num_beams": 4, "repetition_penalty": 2.0, "no_repeat_ngram_size": 2, "early_stopping": True},
}


@pytest.mark.parametrize(
    "changed",
    [{}, {"image_width": 32}, {"tied": False}, {"hidden_act": "gelu_new", "layer_norm_eps": 1e-6}],
)
def test_folder_is_imported_exactly(changed: dict[str, Any], tmp_path: Path) -> None:
    """Logits differ from those of `transformers` by rounding alone, with images as wide as the text and others."""
    save_blip(small_blip(**changed), tmp_path / "checkpoint")
    import_checkpoint("blip", [tmp_path / "checkpoint"], None, tmp_path / "model", "small")

    original: Any = BlipForConditionalGeneration.from_pretrained(tmp_path / "checkpoint").eval().double()
    network = read_network(tmp_path / "model")[1].double()
    pixels, ids = torch.randn(2, 3, SIDE, SIDE).double(), torch.randint(3, VOCABULARY, (2, 9))
    with torch.inference_mode():
        expected = original(pixel_values=pixels, input_ids=ids).logits
        embeds = network.connector(network.vision(pixels))
        found = network.decoder.teacher_forcing(embeds, ids[:, :1], torch.cat([ids[:, 1:], ids[:, :1]], dim=1))
    assert (found - expected).abs().max() < 1e-9


def test_served_reports_equal_generate_with_and_without_a_prompt(tmp_path: Path) -> None:
    """The prompt is the beginning of the text, and penalties count it."""
    model = small_blip()
    save_blip(model, tmp_path / "checkpoint")
    folder = import_folder("blip", tmp_path / "checkpoint")
    cases = [
        (png(seed), prompt, decoding)
        for seed in range(2)
        for prompt in ("", "a picture of")
        for decoding in DECODINGS.values()
    ]
    requests = [
        ReportRequest(image=image, prompt=prompt, options=GenerationOptions(**NEW_TOKENS, **decoding))
        for image, prompt, decoding in cases
    ]

    reports = serve(folder).generate(requests)

    found = [list(report.token_ids) for report in reports if isinstance(report, Report)]
    expected = [
        captions(model, pixel_values(folder, [image]), prompt, do_sample=False, **NEW_TOKENS, **decoding)
        for image, prompt, decoding in cases
    ]
    assert found == expected
    assert min(len(set(ids)) for ids in found) >= 10
    assert len({tuple(ids) for ids in found}) == len(found)


def test_a_report_ends_by_the_separator(tmp_path: Path) -> None:
    """Its `eos_token_id` is only the end of a text that BLIP's other models read."""
    save_blip(small_blip(), tmp_path / "checkpoint")
    import_checkpoint("blip", [tmp_path / "checkpoint"], None, tmp_path / "model", "small")

    tokens = read_network(tmp_path / "model")[0].tokenizer

    assert (tokens.bos_token_id, tokens.eos_token_id, tokens.pad_token_id) == (START, END, PAD)
