"""Data sets that can be trained on: `read_studies` gives any of them as studies."""

import json
from collections.abc import Callable
from pathlib import Path

from training.datasets.open_radiology import read_records
from training.datasets.study import DatasetError, Study


def _open_radiology(path: Path) -> list[Study]:
    return [
        Study(
            study_id=record.image.stem,
            images=(record.image,),
            sections={"report": record.caption},
            patient_id=record.patient,
            views=(record.labels.view,),
            source=record.source,
            split=split,
            labels={**record.labels._asdict(), "licence": record.licence},
        )
        for split in ("train", "val")
        for record in read_records(path, split)
    ]


def _iu_xray(path: Path) -> list[Study]:
    file = path / "pairs.json"
    if not file.is_file():
        raise DatasetError(f"{file} does not exist; give the folder of the data set as dataset.path")
    studies: dict[str, list[dict[str, str]]] = {}
    for row in json.loads(file.read_text(encoding="utf-8")):
        studies.setdefault(row["uid"], []).append(row)
    return [
        Study(
            study_id=uid,
            images=tuple(path / "images" / row["file"] for row in rows),
            sections={name: rows[0].get(name) or "" for name in ("findings", "impression", "indication")},
            patient_id=uid,
            views=("",) * len(rows),
            source="IU X-ray",
            split=None,
            labels={},
        )
        for uid, rows in studies.items()
    ]


READERS: dict[str, Callable[[Path], list[Study]]] = {"iu_xray": _iu_xray, "open_radiology": _open_radiology}
"""Every format, by the name that settings give as `dataset.format`."""


def read_studies(format: str, path: Path) -> list[Study]:  # noqa: A002 - the settings call it so
    """All studies of a data set. Raises DatasetError for an unknown format and a data set that cannot be used."""
    if format not in READERS:
        raise DatasetError(f"dataset.format is {format!r}; known: {', '.join(READERS)}")
    return READERS[format](path)
