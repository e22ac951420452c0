"""preprocessor_config.json is read exactly, or refused by the name of the setting."""

import io
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from export.checkpoints.settings import preprocessor_config, read_settings
from prelim.errors import ArchiveError
from prelim.images.input_config import InputConfig
from prelim.images.preprocess import PreprocessConfig, preprocess, preprocess_image
from prelim.images.radiograph import read_radiograph
from prelim.networks.architectures import blip, encoder_decoder, gemma3, llava, qwen2_5_vl
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.grid_processor import read_grid_processor
from prelim.networks.architectures.image_processor import BIT, BLIP, GEMMA3, OF_TOWERS, VIT, read_processor
from tests.model_src.networks.architectures.small_llava import PROCESSOR, SIDE
from tests.model_src.networks.architectures.small_qwen2_5_vl import patches_of

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
    "CLIP": CLIPImageProcessorPil,
    "Llava": LlavaImageProcessorPil,
    "Siglip": SiglipImageProcessorPil,
    "Bit": BitImageProcessorPil,
    "ViT": ViTImageProcessorPil,
    "DeiT": DeiTImageProcessorPil,
    "Blip": BlipImageProcessorPil,
    "Gemma3": Gemma3ImageProcessorPil,
}
"""Beginning of the class that a file names -> that class on Pillow."""

SYSTEMS: dict[str, dict[str, Any]] = {
    "llava": {"published": llava.PREPROCESS, "classes": OF_TOWERS},
    "encoder_decoder": {"published": encoder_decoder.PREPROCESS, "classes": (*VIT, *BIT), "crop": False},
    "blip": {"published": blip.PREPROCESS, "classes": BLIP, "crop": False},
    "gemma3": {"published": gemma3.PREPROCESS, "classes": GEMMA3, "crop": False},
}
"""System -> arguments of `read_processor`."""


def theirs(folder: Path, settings: dict[str, Any]) -> Any:
    """The processor of a folder."""
    named = settings.get("image_processor_type", settings.get("feature_extractor_type", "CLIP"))
    return next(one for start, one in PROCESSORS.items() if named.startswith(start)).from_pretrained(folder)


def image(width: int, height: int) -> bytes:
    """PNG of a smooth gray image."""
    columns, rows = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 5, height))
    gray = np.rint(127 + 60 * np.sin(columns * 2) + 60 * np.cos(rows)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "PNG")
    return file.getvalue()


def read(
    folder: Path, facts: list[Facts] | None = None, *, system: str = "llava", side: int = SIDE
) -> PreprocessConfig:
    """The section `preprocess` for the settings of a folder."""
    found = Facts(preprocessor=preprocessor_config(read_settings(folder, "model")))
    if facts is not None:
        facts.append(found)
    return PreprocessConfig(**read_processor(side, facts=found, **SYSTEMS[system]))


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
    expected = theirs(tmp_path, settings)(gray, return_tensors="pt")["pixel_values"][0]
    levels = (found - expected).abs() * torch.tensor(config.std)[:, None, None] / GRAY_LEVEL
    assert found.shape == expected.shape
    assert levels.max() <= 1.01


SQUARE = {"height": 384, "width": 384}
CROPPED: dict[str, Any] = {"size": {"shortest_edge": 384}, "crop_size": SQUARE}
RAD_DINO = {"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3}
REAL: dict[str, tuple[str, int, dict[str, Any]]] = {
    "Gemma 3": ("gemma3", 896, {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 896, "width": 896}}),
    "CLIP": ("llava", 384, {"image_processor_type": "CLIPImageProcessor", **CROPPED}),
    "LLaVA, padded": ("llava", 384, {"image_processor_type": "LlavaImageProcessor", "do_pad": True, **CROPPED}),
    "SigLIP": ("llava", 384, {"image_processor_type": "SiglipImageProcessor", "size": SQUARE}),
    "Rad-DINO": ("llava", 384, {"image_processor_type": "BitImageProcessor", **CROPPED, **RAD_DINO}),
    "ViT": ("encoder_decoder", 224, {"feature_extractor_type": "ViTFeatureExtractor", "size": 224}),
    "DeiT": ("encoder_decoder", 224, {"image_processor_type": "DeiTImageProcessor"}),
    "DINOv2": ("encoder_decoder", 384, {"image_processor_type": "BitImageProcessor", **CROPPED}),
    "BLIP": ("blip", 384, {"image_processor_type": "BlipImageProcessor", "size": 384}),
}
"""System, side and settings; what they lack is transformers' own default."""


def sampled(names: Iterable[str], few: int) -> list[Any]:
    """Each name with 30 radiographs, which takes long; and the first with a few."""
    return [(next(iter(names)), few), *(pytest.param(name, 30, marks=pytest.mark.exhaustive) for name in names)]


@pytest.mark.parametrize(("name", "count"), sampled(REAL, 5))
def test_real_radiographs_are_preprocessed_as_by_transformers(
    name: str, count: int, shared: Path, tmp_path: Path
) -> None:
    """Within a gray level of the folder's processor on Pillow."""
    system, side, settings = REAL[name]
    write(tmp_path, settings)
    config = read(tmp_path, system=system, side=side)
    processor = theirs(tmp_path, settings)
    for file, gray in radiographs(shared, count).items():
        expected = processor(gray.convert("RGB"), return_tensors="np")["pixel_values"][0]
        difference = np.abs(preprocess_image(gray, config) - expected) * np.array(config.std)[:, None, None]
        assert difference.max() <= 1.01 * GRAY_LEVEL, file


QWEN: dict[str, dict[str, Any]] = {
    "published": {"min_pixels": 3136, "max_pixels": 12845056},
    "areas by their other names": {"size": {"shortest_edge": 200 * 28**2, "longest_edge": 300 * 28**2}},
    "enlarged": {"min_pixels": 1500 * 28**2, "max_pixels": 2000 * 28**2, "resample": 2, "rescale_factor": 1 / 127.5},
    "both": {
        "min_pixels": 3136,
        "max_pixels": 400000,
        "size": {"min_pixels": 3136, "max_pixels": 400000},
        "do_normalize": False,
    },
    "nothing": {},
}


@pytest.mark.parametrize(("name", "count"), sampled(QWEN, 2))
def test_real_radiographs_keep_their_aspect_as_by_transformers(
    name: str, count: int, shared: Path, tmp_path: Path
) -> None:
    """In as many patches, within a gray level."""
    settings = {"image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": 14, "merge_size": 2, **QWEN[name]}
    write(tmp_path, settings)
    sides = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
    facts = Facts(preprocessor=preprocessor_config(read_settings(tmp_path, "model")))
    config = PreprocessConfig(**read_grid_processor(qwen2_5_vl.PREPROCESS, facts, sides))
    processor: Any = Qwen2VLImageProcessorPil.from_pretrained(tmp_path)
    for file, gray in radiographs(shared, count).items():
        read = processor(gray.convert("RGB"), return_tensors="pt")
        found = torch.from_numpy(preprocess_image(gray, config))
        ours = patches_of([found[None]], SimpleNamespace(spatial_merge_size=2, **sides))
        assert torch.equal(ours["image_grid_thw"], read["image_grid_thw"]), file
        difference = (ours["pixel_values"] - read["pixel_values"]).abs().unflatten(1, (3, -1))
        levels = difference * torch.tensor(config.std)[:, None] / GRAY_LEVEL
        assert levels.max() <= 1.01, file


FOLDERS = ("open_radiology", "vqa_rad_chest")
"""Shared data of at most 256 pixels a side, and of mostly a thousand and more: enlarged, and shrunk."""


def radiographs(shared: Path, count: int) -> dict[str, Image.Image]:
    """File name -> gray image: oblong ones of different sizes from all over the data, both of whose sides are odd."""
    found: dict[tuple[int, int], Path] = {}
    folders = [_from_all_over(shared / "data" / name) for name in FOLDERS]
    for path in itertools.chain.from_iterable(zip(*folders, strict=False)):
        with Image.open(path) as opened:
            size = _odd(opened.width), _odd(opened.height)
        if size[0] != size[1]:
            found.setdefault(size, path)
        if len(found) == count:
            break
    assert len(found) == count
    cut = {}
    for size, path in found.items():
        with Image.open(path) as opened:
            cut[path.name] = opened.convert("L").crop((0, 0, *size))
    return cut


def _from_all_over(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir(), key=lambda path: path.name[::-1])


def _odd(side: int) -> int:
    return side - 1 + side % 2


@pytest.mark.parametrize("start", PROCESSORS)
def test_what_a_file_lacks_is_the_default_of_its_class(start: str, tmp_path: Path) -> None:
    """Interpolation, mean and deviation; and a size of one number is that of a square or of an edge."""
    settings = {"image_processor_type": f"{start}ImageProcessor"}
    if start != "DeiT":
        settings |= {"size": SIDE, **({"crop_size": SIDE} if start in ("CLIP", "Llava", "Bit") else {})}
    if start == "Siglip":
        settings["size"] = {"height": SIDE, "width": SIDE}
    write(tmp_path, settings)
    system = {"ViT": "encoder_decoder", "DeiT": "encoder_decoder", "Blip": "blip", "Gemma3": "gemma3"}.get(start)
    config = read(tmp_path, system=system or "llava", side=224 if start == "DeiT" else SIDE)
    gray = Image.open(io.BytesIO(image(61, 97)))

    expected = theirs(tmp_path, settings)(gray.convert("RGB"), return_tensors="np")["pixel_values"][0]

    assert np.abs((preprocess_image(gray, config) - expected) * np.array(config.std)[:, None, None]).max() <= 1.01 / 255


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

    assert config.mean == tuple(llava.PREPROCESS["mean"])
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
