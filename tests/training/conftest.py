"""A data set of eight tiny pictures in the format of open_radiology, and settings that train on it in seconds."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.labels import Labels
from training.settings import Settings

LABELS = (
    Labels("radiograph", "chest", "frontal", "normal"),
    Labels("radiograph", "chest", "frontal", "viral pneumonia"),
)
CAPTIONS = (
    ("frontal chest x-ray, normal", "normal frontal chest radiograph"),
    ("frontal chest x-ray with viral pneumonia", "chest radiograph, frontal view, with viral pneumonia"),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder: 8 training and 4 validation pictures of noise, 40 x 36 pixels."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    noise = np.random.default_rng(0)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["id", "text", "modality", "anatomy", "view", "finding", "patient", "source", "licence", "split"]
        )
        for i in range(12):
            Image.fromarray(noise.integers(0, 255, (36, 40), dtype=np.uint8)).save(folder / "images" / f"{i}.jpg")
            split = "train" if i < 8 else "val"
            writer.writerow([i, CAPTIONS[i % 2][0], *LABELS[i % 2], f"patient {i}", "noise", "CC0 1.0", split])
    templates = {"|".join(labels): captions for labels, captions in zip(LABELS, CAPTIONS, strict=True)}
    (folder / "templates.json").write_text(json.dumps(templates), encoding="utf-8")
    (folder / "ATTRIBUTION.md").write_text(
        "# Attribution\n\nChanges made to all pictures: none.\n\n"
        "## 1. Noise: CC0 1.0\nNobody, 2025, DOI 10.0/0.\nCopy: none.\n\n## Left out\nAll else.\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture
def settings(data: Path, tmp_path: Path) -> Settings:
    """Two epochs of two steps with the smallest network."""
    return Settings(
        data=str(data),
        run=str(tmp_path / "run"),
        out=str(tmp_path / "model"),
        width=16,
        layers=1,
        heads=2,
        feedforward=16,
        max_new_tokens=3,
        image_size=64,
        small_image_size=32,
        small_epochs=1,
        cache_size=72,
        epochs=2,
        warmup_epochs=1,
        batch_size=4,
        captions_per_batch=2,
        threads=1,
        validate_every=1,
    )
