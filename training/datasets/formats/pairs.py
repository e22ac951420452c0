"""A JSON list with one object an image: `[{"file", "findings", ...}]`, the plainest format for data of one's own.

file                 : image, or a list of them, relative to the folder of images
any of SECTIONS      : texts; one may be missing or null. A list of texts, and other texts in a further object of one
                       study, are further references
uid                  : study; objects of one uid are one study
any of PATIENT_KEYS  : see Study; unknown where none is there
view                 : see Study; of several files a list
prompt               : what is asked; objects of one study with different prompts are studies of their own
any of SPLIT_KEYS    : see Study, in any case
any other value      : a label
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from training.datasets.files import (
    PROMPT,
    check_one_study,
    collect_labels,
    find_file,
    keep_readings,
    pair_views,
    read_json,
    read_records,
    separate_questions,
)
from training.datasets.image_files import ImageFolder
from training.datasets.split_names import SplitReader, is_split_key
from training.datasets.study import DatasetError, Study
from training.datasets.values import find_patient_value, name_patient_keys, read_value

SECTIONS = ("findings", "impression", "indication", "comparison", "report", "note", "imaging_text")
OTHER = ("file", "uid", "view")

Rows = list[tuple[str, dict[str, Any]]]


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read pairs.json; the images are in `images/` next to it."""
    file = find_file(path, "pairs.json")
    folder = ImageFolder(images or file.parent / "images")
    splits = SplitReader()
    studies: dict[str, Rows] = {}
    for place, record in read_records(file, read_json(file), ("file",)):
        record["file"] = _read_names(place, record["file"])
        record["split"] = splits.read(record, place)
        studies.setdefault(read_value(record.get("uid")) or record["file"][0], []).append((place, record))
    for uid, of_uid in studies.items():
        patient = _find_one(of_uid, find_patient_value, "patients")
        split = _find_one(of_uid, lambda record: record["split"], "splits")
        for study_id, rows in separate_questions(uid, of_uid):
            place, first = rows[0]
            prompt = read_value(first.get(PROMPT))
            # One file may be listed twice, for instance once for each license.
            views = {
                folder.find(name): view
                for where, record in rows
                for name, view in pair_views(record["file"], record.get("view"), where)
            }
            check_one_study([(where, record["file"], _take_sections(record)) for where, record in rows], "uid")
            sections, further = keep_readings(
                [_take_sections(record) for _, record in rows], place, answers=prompt is not None
            )
            known = (*SECTIONS, *OTHER, *name_patient_keys(first), *filter(is_split_key, first))
            yield Study(
                study_id=study_id,
                images=tuple(views),
                sections=sections,
                further=further,
                patient_id=patient,
                views=tuple(views.values()),
                source=file.parent.name,
                split=split,
                labels=collect_labels(first, known),
                group=first["file"][0] if prompt else "",
                place=place,
            )


def _find_one(rows: Rows, find: Callable[[Mapping[str, Any]], str | None], what: str) -> str | None:
    """The one value that is found in the objects of a study; None where they have none.

    Raises DatasetError where objects of one uid have several. A file that is listed twice without a uid counts as what
    it is listed as first: covid-chestxray has such files, under two numbers of one patient.
    """
    found = {value: place for place, record in rows if (value := find(record)) is not None}
    if len(found) > 1 and read_value(rows[0][1].get("uid")) is not None:
        (one, other), places = list(found)[:2], list(found.values())
        raise DatasetError(
            f"{places[0]} and {places[1]} are one study (uid) of two {what}, {one!r} and {other!r}; correct one"
        )
    return next(iter(found), None)


def _take_sections(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record.get(name) for name in SECTIONS}


def _read_names(place: str, file: Any) -> list[str]:
    """The image names that `file` of an object has. Raises DatasetError where one is blank, null or not a text."""
    names = file if isinstance(file, list) else [file]
    if not names or not all(isinstance(name, str) and read_value(name) for name in names):
        raise DatasetError(f"{place}: file is blank, null or not a text; give a file name or a list of them")
    return names
