"""A JSON list with one object an image: `[{"file", "findings", ...}]`, the plainest format for data of one's own.

file                 : image, relative to the folder of images
any of SECTIONS      : texts; one may be missing or null. A list of texts, and other texts in a further object of one
                       study, are further references
uid                  : study; objects of one uid are one study
any of PATIENT       : see Study; unknown where none is there
view, split          : see Study
any other value      : a label
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.datasets.files import collect_labels, find_file, keep_readings, name_split, read_json, read_records
from training.datasets.image_files import ImageFolder
from training.datasets.study import DatasetError, Study

SECTIONS = ("findings", "impression", "indication", "comparison", "report", "note", "imaging_text")
PATIENT = ("patientid", "patient_id", "patient", "subject_id")
OTHER = ("file", "uid", "view", "split")

Rows = list[tuple[str, dict[str, Any]]]


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read pairs.json; the images are in `images/` next to it."""
    file = find_file(path, "pairs.json")
    folder = ImageFolder(images or file.parent / "images")
    studies: dict[str, Rows] = {}
    for place, record in read_records(file, read_json(file), ("file",)):
        uid = record.get("uid")
        studies.setdefault(str(record["file"] if uid in (None, "") else uid), []).append((place, record))
    for study_id, rows in studies.items():
        place, first = rows[0]
        # One file may be listed twice, for instance once for each licence.
        views = {folder.find(str(record["file"])): str(record.get("view") or "") for _, record in rows}
        sections, further = keep_readings([{name: record.get(name) for name in SECTIONS} for _, record in rows], place)
        yield Study(
            study_id=study_id,
            images=tuple(views),
            sections=sections,
            further=further,
            patient_id=_find_one(rows, PATIENT, "patients"),
            views=tuple(views.values()),
            source=file.parent.name,
            split=name_split(_find_one(rows, ("split",), "splits") or "", place),
            labels=collect_labels(first, (*SECTIONS, *OTHER, *PATIENT)),
            place=place,
        )


def _find_one(rows: Rows, keys: Sequence[str], what: str) -> str | None:
    """The one value that the objects of a study have under any of the keys; None where they have none.

    Raises DatasetError where objects of one uid have several. A file that is listed twice without a uid counts as what
    it is listed as first: covid-chestxray has such files, under two numbers of one patient.
    """
    found = {str(record[key]): place for place, record in rows for key in keys if _is_given(record, key)}
    if len(found) > 1 and _is_given(rows[0][1], "uid"):
        (one, other), places = list(found)[:2], list(found.values())
        raise DatasetError(
            f"{places[0]} and {places[1]} are one study (uid) of two {what}, {one!r} and {other!r}; correct one"
        )
    return next(iter(found), None)


def _is_given(record: Mapping[str, Any], key: str) -> bool:
    return record.get(key) not in (None, "")
