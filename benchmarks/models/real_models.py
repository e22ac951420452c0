"""Decoders with trained weights, and the prefixes they continue: images or text.

Random weights cannot show the quality of precisions: where all tokens are nearly equally good, rounding changes most.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.machine import ROOT
from benchmarks.models import smollm2
from launcher.sample_radiograph import as_png, sample_radiograph
from prelim.decoders.decoder import IMAGE
from prelim.networks.agreement import Prefix, RealModel, read_pixels, real_model
from prelim.networks.model_folder import read_model_folder

DATA = ROOT.parent / "shared" / "data"
"""Data outside this project; without it there are other images and fewer prompts."""

IU_REPORTS = DATA / "iu_xray" / "indiana_reports.csv"

SMOLLM2 = "smollm2"
"""Name of SmolLM2 on the command line, instead of a model folder."""

_SMALLEST_PART = 0.6


def load_model(name: str, images: int, prompts: int, new_tokens: int) -> RealModel:
    """Load a model folder or SmolLM2.

    name       : path of the folder, or SMOLLM2
    images     : number of images for the model of a folder
    prompts    : number of prompts for SmolLM2, or all if there are fewer
    new_tokens : maximum length of a text of SmolLM2; a model folder has its own

    Raises FileNotFoundError if SmolLM2 was not fetched, ArchiveError naming the faulty file of a folder.
    """
    return _smollm2(prompts, new_tokens) if name == SMOLLM2 else _of_folder(Path(name), images)


def _smollm2(count: int, new_tokens: int) -> RealModel:
    """SmolLM2 with text only: an image of zero tokens at the end of the prompt."""
    decoder = smollm2.network()
    nothing = torch.empty(0, decoder.config.hidden_size)
    ids = smollm2.prompts(IU_REPORTS)
    chosen = [ids[i * len(ids) // count] for i in range(count)] if count < len(ids) else ids
    prefixes = [Prefix(nothing, (*prompt, IMAGE)) for prompt in chosen]
    about = f"SmolLM2-135M-Instruct (dequantized from Q4_1), {len(prefixes)} prompts, up to {new_tokens} tokens each"
    return RealModel("SmolLM2-135M", about, decoder, prefixes, smollm2.IM_END, smollm2.IM_END, new_tokens)


def _of_folder(folder: Path, count: int) -> RealModel:
    where, files = sample_images(count)
    model = read_model_folder(folder)
    return real_model(model, read_pixels(model.config, files), where)


def sample_images(count: int) -> tuple[str, list[bytes]]:
    """The source of the images, and `count` of them, or all if there are fewer."""
    folder = DATA / "open_radiology"
    if (folder / "captions.csv").is_file():
        with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
            ids = [row["id"] for row in csv.DictReader(file) if row["split"] == "val"]
        # Spread over the list, which is sorted by source.
        chosen = [ids[i * len(ids) // count] for i in range(count)] if count < len(ids) else ids
        return "open_radiology, val", [(folder / "images" / f"{name}.jpg").read_bytes() for name in chosen]
    parts = _parts_of_radiograph()
    return "parts of one radiograph of pydicom-data", [next(parts) for _ in range(count)]


def _parts_of_radiograph() -> Iterator[bytes]:
    """Yield seeded parts of a real chest radiograph with different brightness as PNG files, endlessly."""
    whole = np.asarray(Image.open(io.BytesIO(as_png(sample_radiograph()))), dtype=np.float32) / 255
    generator = np.random.default_rng(0)
    while True:
        shares = generator.uniform(_SMALLEST_PART, 1, size=2)
        height, width = (int(share * side) for share, side in zip(shares, whole.shape, strict=True))
        top, left = (int(generator.integers(0, s - n + 1)) for s, n in zip(whole.shape, (height, width), strict=True))
        part = whole[top : top + height, left : left + width] ** generator.uniform(0.6, 1.6)
        file = io.BytesIO()
        Image.fromarray(np.round(255 * part).astype(np.uint8)).resize((512, 512)).save(file, "PNG")
        yield file.getvalue()
