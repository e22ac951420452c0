"""Vision encoder-decoders: served reports equal those of `generate`, and pixels those of the folder's processor."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessorPil, DeiTImageProcessorPil, VisionEncoderDecoderModel, ViTImageProcessorPil

from prelim.generation.options import GenerationOptions
from prelim.images.preprocess import preprocess
from prelim.images.radiograph import read_radiograph
from prelim.networks.model_folder import read_network
from prelim.report import Report
from prelim.report_generator import ReportRequest
from tests.model_src.networks.architectures.imported_folder import import_folder, pixel_values, serve
from tests.model_src.networks.architectures.small_encoder_decoder import (
    END,
    SIDE,
    image_inputs,
    save_encoder_decoder,
    small_encoder_decoder,
)
from tests.tiny_model import png

NEW_TOKENS = {"min_new_tokens": 20, "max_new_tokens": 32}
DECODINGS: dict[str, dict[str, Any]] = {
    "greedy": {"repetition_penalty": 2.0, "no_repeat_ngram_size": 2},
    "2 beams": {"num_beams": 2, "length_penalty": 2.0, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    "3 beams": {"num_beams": 3, "repetition_penalty": 2.0, "no_repeat_ngram_size": 2},
    "5 beams": {"num_beams": 5, "repetition_penalty": 2.0, "no_repeat_ngram_size": 2, "early_stopping": True},
    "sampling": {
        "do_sample": True,
        "seed": 3,
        "temperature": 1.5,
        "top_k": 40,
        "top_p": 0.95,
        "repetition_penalty": 2.0,
    },
}
"""With penalties that give many different tokens, as random weights do not by themselves."""

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ViT, GPT-2": ("vit", "gpt2", {}),
    "DINOv2, GPT-2 with a head": ("dinov2", "gpt2", {"tie_word_embeddings": False, "activation_function": "gelu"}),
    "CvT, DistilGPT-2": ("cvt", "gpt2", {"n_layer": 1, "n_embd": 40}),
    "Swin V2, BERT": ("swinv2", "bert", {}),
    "DeiT, BERT with a head": ("deit", "bert", {"tie_word_embeddings": False, "hidden_act": "gelu_new"}),
}


@torch.inference_mode()
def original_ids(model: Any, pixel_values: torch.Tensor, **options: Any) -> list[int]:
    """Token ids by `generate`, without the start; `seed` is that of the generator for all of torch."""
    torch.manual_seed(options.pop("seed", 0))
    found: list[int] = model.generate(**image_inputs(model, pixel_values), **options)[0, 1:].tolist()
    return found


def token_ids(reports: Sequence[Any]) -> list[list[int]]:
    """Of each report; errors are left out."""
    return [list(report.token_ids) for report in reports if isinstance(report, Report)]


CHEAP = ("ViT, GPT-2", "Swin V2, BERT")


@pytest.mark.parametrize("name", [n if n in CHEAP else pytest.param(n, marks=pytest.mark.exhaustive) for n in MODELS])
def test_served_reports_equal_generate(name: str, tmp_path: Path) -> None:
    """Token ids of an archive's reports, alone and in flight together, equal those of `generate`."""
    encoder, decoder, changed = MODELS[name]
    model = small_encoder_decoder(encoder, decoder, **changed)
    folder = import_folder("encoder_decoder", save_encoder_decoder(model, tmp_path / "checkpoint"))
    generator = serve(folder)
    images = [png(seed) for seed in range(2)]
    cases = [(image, DECODINGS[decoding]) for image in images for decoding in DECODINGS]
    requests = [
        ReportRequest(image=image, options=GenerationOptions(**NEW_TOKENS, **options)) for image, options in cases
    ]

    found = token_ids(generator.generate(requests))

    expected = [original_ids(model, pixel_values(folder, [i]), **NEW_TOKENS, **o) for i, o in cases]
    assert found == expected
    assert min(len(set(ids)) for ids in found) >= 10
    assert len({tuple(ids) for ids in found}) > len(DECODINGS)
    assert token_ids(generator.generate(requests[2:3])) == found[2:3]


OWN: dict[str, dict[str, Any]] = {
    "beams": {
        "num_beams": 4,
        "max_length": 38,
        "no_repeat_ngram_size": 3,
        "length_penalty": 2.0,
        "early_stopping": True,
        "min_new_tokens": 12,
        "eos_token_id": [END, 40, 41],
    },
    "greedy": {"max_length": 35, "min_length": 30, "repetition_penalty": 1.2},
}
"""Settings of generation_config.json."""


@pytest.mark.parametrize("own", OWN)
def test_reports_without_options_equal_generate_without_options(own: str, tmp_path: Path) -> None:
    """The folder's generation_config.json gives the defaults of the served model."""
    save_encoder_decoder(small_encoder_decoder("vit", "gpt2"), tmp_path / "checkpoint", **OWN[own])
    folder = import_folder("encoder_decoder", tmp_path / "checkpoint")
    images = [png(seed) for seed in range(2)]

    found = token_ids(serve(folder).generate([ReportRequest(image=image) for image in images]))

    original: Any = VisionEncoderDecoderModel.from_pretrained(tmp_path / "checkpoint").eval()
    assert found == [original_ids(original, pixel_values(folder, [image])) for image in images]
    assert max(len(set(ids)) for ids in found) >= 10


PROCESSORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ViT": (ViTImageProcessorPil, {"size": {"height": SIDE, "width": SIDE}, "resample": 2}),
    "DeiT": (
        DeiTImageProcessorPil,
        {"size": {"height": 37, "width": 37}, "crop_size": {"height": SIDE, "width": SIDE}, "resample": 3},
    ),
    "Bit": (
        BitImageProcessorPil,
        {"size": {"shortest_edge": 37}, "crop_size": {"height": SIDE, "width": SIDE}, "resample": 3},
    ),
}
"""Classes of processors of vision encoders, with settings of their preprocessor_config.json."""


def deviation(image: Image.Image, theirs: Any, config: Any) -> float:
    """Largest difference between our pixels and those of a processor, in gray levels."""
    file = io.BytesIO()
    image.save(file, "PNG")
    found = preprocess(read_radiograph(file.getvalue(), config.input), config.preprocess)
    expected = theirs(image.convert("RGB"), return_tensors="np")["pixel_values"][0]
    return float((np.abs(found - expected) * np.array(config.preprocess.std)[:, None, None]).max() * 255)


def with_processor(name: str, folder: Path) -> tuple[Any, Any]:
    """The processor of a folder, and model.yaml of its import."""
    kind, settings = PROCESSORS[name]
    save_encoder_decoder(small_encoder_decoder("vit", "gpt2"), folder / "checkpoint")
    path = folder / "checkpoint" / "preprocessor_config.json"
    stored = {**json.loads(path.read_text(encoding="utf-8")), **settings}
    path.write_text(json.dumps({**stored, "image_processor_type": f"{name}ImageProcessor"}), encoding="utf-8")
    return kind.from_pretrained(folder / "checkpoint"), read_network(
        import_folder("encoder_decoder", folder / "checkpoint")
    )[0]


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_folders_processor(name: str, tmp_path: Path) -> None:
    """Pictures of odd sizes get the pixels of the folder's Pillow-based processor, within one gray level."""
    theirs, config = with_processor(name, tmp_path)

    for width, height in ((97, 61), (33, 150), (32, 32), (640, 481)):
        gray = np.random.default_rng(width).integers(0, 256, (height, width)).astype(np.uint8)
        assert deviation(Image.fromarray(gray), theirs, config) <= 1


@pytest.mark.parametrize("name", PROCESSORS)
def test_radiographs_get_the_pixels_of_the_folders_processor(name: str, tmp_path: Path, shared: Path) -> None:
    """Ten real ones of odd sizes each, parts of images of different proportions."""
    folder = shared / "data" / "open_radiology" / "images"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    theirs, config = with_processor(name, tmp_path)
    files = sorted(folder.iterdir())[list(PROCESSORS).index(name) :: 601][:10]
    sizes = set()

    for number, file in enumerate(files):
        image = Image.open(file).convert("L")
        part = image.crop((0, 0, image.width - 2 * number - 1, image.height - 3 * (number % 4)))
        sizes.add(part.size)
        assert deviation(part, theirs, config) <= 1
    assert len(sizes) == len(files) == 10
