"""A data set of eight tiny pictures in the format of open_radiology, and settings that train on it in seconds."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.small_systems import small_run
from training.datasets.templates import Labels
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
    """The folder of `write_data`."""
    return write_data(tmp_path / "data")


def write_data(folder: Path) -> Path:
    """Write a data folder: 8 training and 4 validation pictures of noise, 40 x 36 pixels."""
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
def small(data: Path, tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a run of a small system on `data`: two epochs of two steps; keyword arguments change sections."""

    def settings(system: str = "mobilenet_graph", folder: str = "", **changed: Any) -> Settings:
        dataset = {"format": "open_radiology", "path": str(data), "sections": ["report"]}
        optimization = {"epochs": 2, "batch_size": 2, "accumulate": 2}
        changed["dataset"] = dataset | changed.get("dataset", {})
        changed["optimization"] = optimization | changed.get("optimization", {})
        return small_run(system, tmp_path / folder, **changed)

    return settings


@pytest.fixture
def settings(small: Callable[..., Settings]) -> Settings:
    """A run of a small system 1."""
    return small()


@pytest.fixture(autouse=True)
def _restore_torch() -> Iterator[None]:
    """Training sets threads and determinism of the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
