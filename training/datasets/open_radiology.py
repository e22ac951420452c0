"""open_radiology: real radiology pictures of open licence with templated captions.

The folder holds captions.csv (one row a picture), templates.json (the six right captions of every label
combination) and images/ID.jpg (8-bit grey).
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from training.datasets.study import DatasetError
from training.labels import Labels

__all__ = ["DatasetError", "Record", "cache_images", "read_records", "read_templates"]


@dataclass(frozen=True)
class Record:
    """One picture with its caption."""

    image: Path
    caption: str
    labels: Labels
    patient: str
    source: str
    licence: str


def read_records(folder: Path, split: str) -> list[Record]:
    """The rows of captions.csv that belong to a split, in their order."""
    path = folder / "captions.csv"
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; give the folder of the data set as data=FOLDER")
    records = []
    splits = set()
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            splits.add(row["split"])
            if row["split"] == split:
                labels = Labels(row["modality"], row["anatomy"], row["view"], row["finding"])
                image = folder / "images" / f"{row['id']}.jpg"
                records.append(Record(image, row["text"], labels, row["patient"], row["source"], row["licence"]))
    if not records:
        raise DatasetError(f"{path} has no rows of split {split!r}; its splits are {', '.join(sorted(splits))}")
    return records


def read_templates(folder: Path) -> dict[Labels, tuple[str, ...]]:
    """The right captions of every label combination; templates.json joins the four labels with `|`."""
    path = folder / "templates.json"
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; give the folder of the data set as data=FOLDER")
    templates = json.loads(path.read_text(encoding="utf-8"))
    return {Labels(*key.split("|")): tuple(captions) for key, captions in templates.items()}


def cache_images(records: Sequence[Record], size: int) -> Tensor:
    """All pictures stretched to one size in memory, to be augmented from there.

    returns : Tensor of uint8, shape (len(records), size, size)
    """
    images = np.empty((len(records), size, size), dtype=np.uint8)
    for i, record in enumerate(records):
        with Image.open(record.image) as image:
            images[i] = np.asarray(image.convert("L").resize((size, size), Image.Resampling.BILINEAR))
    return torch.from_numpy(images)
