"""preprocessor_config.json of a LLaVA is read exactly, or refused by the name of the setting."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from export.checkpoints.settings import preprocessor_config, read_settings
from prelim.errors import ArchiveError
from prelim.images.input_config import InputConfig
from prelim.images.preprocess import PreprocessConfig, preprocess, preprocess_image
from prelim.images.radiograph import read_radiograph
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.image_processor import OF_TOWERS, read_processor
from prelim.networks.architectures.llava import PREPROCESS
from tests.model_src.networks.architectures.small_llava import PROCESSOR, SIDE

GRAY_LEVEL = 1 / 255

READ: dict[str, dict[str, Any]] = {
    "as published": {},
    "integers": {"size": SIDE, "crop_size": SIDE},
    "larger edge": {"size": {"shortest_edge": SIDE + 4}},
    "odd margin": {"size": {"shortest_edge": SIDE + 3}},
    "stretched": {"size": {"height": SIDE + 3, "width": SIDE + 3}},
    "stretched, not cropped": {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False, "crop_size": None},
    "not normalized": {"do_normalize": False},
    "not rescaled": {"do_rescale": False},
    "neither": {"do_rescale": False, "do_normalize": False},
    "other factor": {"rescale_factor": 1 / 127.5},
    "other factor, not normalized": {"rescale_factor": 1 / 127.5, "do_normalize": False},
    "bilinear": {"resample": 2},
    "class": {"image_processor_type": "CLIPImageProcessorFast", "do_convert_rgb": True},
    "padded": {"image_processor_type": "LlavaImageProcessor", "do_pad": True},
    "padded, odd margin": {
        "image_processor_type": "LlavaImageProcessorFast",
        "do_pad": True,
        "size": {"shortest_edge": SIDE + 3},
    },
    "not padded": {"image_processor_type": "LlavaImageProcessor", "do_pad": False},
    "SigLIP": {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": SIDE, "width": SIDE},
        "crop_size": None,
        "image_mean": None,
        "image_std": None,
    },
    "Rad-DINO": {"image_processor_type": "BitImageProcessor", "image_mean": [0.5307] * 3, "image_std": [0.2583] * 3},
}
PROCESSORS = {
    "LlavaImageProcessor": LlavaImageProcessorPil,
    "LlavaImageProcessorFast": LlavaImageProcessorPil,
    "SiglipImageProcessor": SiglipImageProcessorPil,
    "BitImageProcessor": BitImageProcessorPil,
}


def image(width: int, height: int) -> bytes:
    """PNG of a smooth gray image."""
    columns, rows = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 5, height))
    gray = np.rint(127 + 60 * np.sin(columns * 2) + 60 * np.cos(rows)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "PNG")
    return file.getvalue()


def read(folder: Path, facts: list[Facts] | None = None) -> PreprocessConfig:
    """The section `preprocess` for the settings of a folder."""
    found = Facts(preprocessor=preprocessor_config(read_settings(folder, "model")))
    if facts is not None:
        facts.append(found)
    return PreprocessConfig(**read_processor(SIDE, PREPROCESS, found, classes=OF_TOWERS))


def write(folder: Path, settings: dict[str, Any], name: str = "preprocessor_config.json") -> None:
    """Write a folder with nothing but settings."""
    (folder / name).write_text(json.dumps(settings), encoding="utf-8")


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("size", [(64, 64), (80, 60), (61, 97)])
def test_pixel_values_are_those_of_transformers(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Within a gray level, the difference of two implementations of bicubic interpolation."""
    settings = {key: value for key, value in {**PROCESSOR, **READ[name]}.items() if value is not None}
    write(tmp_path, settings)
    config = read(tmp_path)
    radiograph = read_radiograph(image(*size), InputConfig())

    found = torch.from_numpy(preprocess(radiograph, config))

    gray = Image.fromarray(np.rint(radiograph.pixels * 255).astype(np.uint8)).convert("RGB")
    processor = PROCESSORS.get(settings.get("image_processor_type", ""), CLIPImageProcessorPil)
    expected = processor.from_pretrained(tmp_path)(gray, return_tensors="pt")["pixel_values"][0]
    levels = (found - expected).abs() * torch.tensor(config.std)[:, None, None] / GRAY_LEVEL
    assert found.shape == expected.shape
    assert levels.max() <= 1.01


REAL: dict[str, dict[str, Any]] = {
    "CLIP": {"image_processor_type": "CLIPImageProcessor"},
    "LLaVA, padded": {"image_processor_type": "LlavaImageProcessor", "do_pad": True},
    "SigLIP": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 384, "width": 384}},
    "Rad-DINO": {"image_processor_type": "BitImageProcessor", "image_mean": [0.5307] * 3, "image_std": [0.2583] * 3},
}


SAMPLED, *OTHERS = REAL


@pytest.mark.parametrize("name", [SAMPLED, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in OTHERS)])
def test_real_radiographs_are_preprocessed_as_by_transformers(name: str, shared: Path, tmp_path: Path) -> None:
    """Oblong ones of different sizes, of shared data, within a gray level of the folder's processor on Pillow."""
    side = 384
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    settings = {**PROCESSOR, **sizes, **REAL[name]}
    write(tmp_path, settings)
    found = Facts(preprocessor=preprocessor_config(read_settings(tmp_path, "model")))
    config = PreprocessConfig(**read_processor(side, PREPROCESS, found, classes=OF_TOWERS))
    processor = PROCESSORS.get(settings["image_processor_type"], CLIPImageProcessorPil).from_pretrained(tmp_path)
    seen: set[tuple[int, int]] = set()
    for path in sorted((shared / "data" / "open_radiology" / "images").iterdir()):
        with Image.open(path) as opened:
            gray = opened.convert("L")
        if gray.size in seen or gray.width == gray.height:
            continue
        seen.add(gray.size)
        expected = processor(gray.convert("RGB"), return_tensors="np")["pixel_values"][0]
        difference = np.abs(preprocess_image(gray, config) - expected) * np.array(config.std)[:, None, None]
        assert difference.max() <= 1.01 * GRAY_LEVEL, path.name
        if len(seen) == (30 if name != SAMPLED else 5):
            break
    assert len(seen) >= 5


REFUSED: dict[str, Any] = {
    "do_resize": False,
    "do_center_crop": False,
    "do_normalize": "yes",
    "do_rescale": None,
    "do_pad": True,
    "do_thumbnail": True,
    "rescale_factor": 0,
    "resample": 1,
    "image_mean": [0.5],
    "image_std": [0, 0, 0],
    "size": {"shortest_edge": SIDE, "longest_edge": 2 * SIDE},
    "crop_size": {"height": SIDE, "width": SIDE + 1},
    "image_processor_type": "ViTImageProcessor",
    "auto_map": {"AutoImageProcessor": "code.Processor"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(name: str, tmp_path: Path) -> None:
    """Instead of being ignored."""
    write(tmp_path, {**PROCESSOR, name: REFUSED[name]})

    with pytest.raises(ArchiveError, match=f"preprocessor_config.json has {name} = "):
        read(tmp_path)


def test_absent_settings_are_assumed(tmp_path: Path) -> None:
    """Those of CLIP, which are also the published ones; null is as absent."""
    write(tmp_path, {"size": SIDE, "image_mean": None})
    facts: list[Facts] = []

    config = read(tmp_path, facts)

    assert config.mean == tuple(PREPROCESS["mean"])
    assert {"preprocess.mean", "preprocess.std", "preprocess.crop_size"} <= facts[0].assumed.keys()
    assert "preprocess.resize_to" not in facts[0].assumed


def test_two_files_that_differ_are_refused(tmp_path: Path) -> None:
    """Transformers reads one or the other, depending on its version."""
    write(tmp_path, PROCESSOR)
    write(tmp_path, {"image_processor": {**PROCESSOR, "image_mean": [0.1, 0.1, 0.1]}}, "processor_config.json")

    with pytest.raises(ArchiveError, match="differ, first in image_mean"):
        read(tmp_path)

    write(tmp_path, {"image_processor": PROCESSOR, "patch_size": 14}, "processor_config.json")
    assert read(tmp_path).mean == tuple(PROCESSOR["image_mean"])


def test_settings_of_the_text_are_not_those_of_the_image(tmp_path: Path) -> None:
    """processor_config.json of old versions."""
    write(tmp_path, {"patch_size": 14, "image_token": "<image>"}, "processor_config.json")

    assert preprocessor_config(read_settings(tmp_path, "model")) == {}
