"""open_radiology: real radiology pictures of open license with templated captions.

The folder holds captions.csv (one row a picture), templates.json (the six right captions of every label
combination) and images/ID.jpg (8-bit gray).
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.datasets.delimited import read_rows
from training.datasets.files import find_file, keep_texts
from training.datasets.split_names import name_split
from training.datasets.study import DatasetError, Study
from training.datasets.templates import Labels

__all__ = ["DatasetError", "Record", "read", "read_records", "read_templates"]

COLUMNS = ("id", "text", "modality", "anatomy", "view", "finding", "patient", "source", "licence", "split")
TEMPLATES = "templates.json"


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read captions.csv with its splits; the pictures are in `images/` next to it.

    The section `report` is the caption that is given with a picture, `caption 1` to `caption 6` are those that
    templates.json has for its labels: the same wording each time.
    """
    table = find_file(path, "captions.csv")
    folder = images or table.parent / "images"
    templates = read_templates(table.parent) if (table.parent / TEMPLATES).is_file() else {}
    for place, row in read_rows(table, COLUMNS):
        yield Study(
            study_id=row["id"],
            images=(folder / f"{row['id']}.jpg",),
            sections=keep_texts({"report": row["text"], **_find_captions(row, templates)}, place),
            patient_id=row["patient"],
            views=(row["view"],),
            source=row["source"],
            split=name_split(row["split"], place),
            labels={name: row[name] for name in ("modality", "anatomy", "view", "finding", "licence")},
            place=place,
        )


def _find_captions(row: Mapping[str, str], templates: Mapping[Labels, Sequence[str]]) -> dict[str, str]:
    captions = templates.get(Labels(row["modality"], row["anatomy"], row["view"], row["finding"]), ())
    return {f"caption {number}": caption for number, caption in enumerate(captions, 1)}


@dataclass(frozen=True)
class Record:
    """One picture with its caption."""

    image: Path
    caption: str
    labels: Labels
    patient: str
    source: str
    license: str


def read_records(folder: Path, split: str) -> list[Record]:
    """The rows of captions.csv that belong to a split, in their order."""
    path = folder / "captions.csv"
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; give the folder of the data set")
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
    path = folder / TEMPLATES
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; give the folder of the data set")
    templates = json.loads(path.read_text(encoding="utf-8"))
    return {Labels(*key.split("|")): tuple(captions) for key, captions in templates.items()}
