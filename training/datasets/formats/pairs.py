"""A JSON list with one object an image: `[{"file", "findings", ...}]`, the plainest format for data of one's own.

file                 : image, or a list of them, relative to the folder of images
any of SECTIONS      : texts; one may be missing or null. A list of texts, and other texts in a further object of one
                       study, are further references
uid                  : study; objects of one uid are one study
any of PATIENT_KEYS  : see Study; unknown where none is there
view                 : see Study; of several files a list
prompt               : what is asked, also as `question` with its `answer`; objects of one study with different prompts
                       are studies of their own
any of SPLIT_KEYS    : see Study, in any case
any other value      : a label
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.datasets.files import PROMPT, collect_labels, find_file, read_json, read_records
from training.datasets.image_files import ImageFolder
from training.datasets.split_names import SplitReader, is_split_key
from training.datasets.study import DatasetError, Study
from training.datasets.study_rows import (
    StudyRow,
    find_column,
    find_one,
    join_labels,
    join_rows,
    name_questions,
    separate_questions,
)
from training.datasets.values import find_patient_value, name_patient_keys, read_value

SECTIONS = ("findings", "impression", "indication", "comparison", "report", "note", "imaging_text")
OTHER = ("file", "uid", "view")

Rows = list[StudyRow]


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read pairs.json; the images are in `images/` next to it."""
    file = find_file(path, "pairs.json")
    folder = ImageFolder(images or file.parent / "images")
    splits = SplitReader()
    studies: dict[str, Rows] = {}
    for place, entry in read_records(file, read_json(file), ("file",)):
        record = name_questions(place, entry)
        record["file"] = _read_names(place, record["file"])
        record["split"] = splits.read(record, place)
        studies.setdefault(read_value(record.get("uid")) or record["file"][0], []).append((place, record))
    for uid, of_uid in studies.items():
        # A file that is listed twice without a uid counts as what it is listed as first: covid-chestxray has such
        # files, under two numbers of one patient.
        unnamed = read_value(of_uid[0][1].get("uid")) is None
        key = "file" if unnamed else "uid"
        patients = ((place, find_patient_value(record)) for place, record in of_uid)
        patient = find_one(patients, "patient", key, first=unnamed)
        split = find_column(of_uid, "split", key)
        for study_id, rows in separate_questions(uid, of_uid):
            _, first = rows[0]
            known = (*SECTIONS, *OTHER, *name_patient_keys(first), *filter(is_split_key, first))
            prompt = collect_labels({PROMPT: first.get(PROMPT)})
            yield Study(
                study_id=study_id,
                patient_id=patient,
                source=file.parent.name,
                split=split,
                labels=join_labels([collect_labels(record, (*known, PROMPT)) for _, record in rows]) | prompt,
                **join_rows(
                    rows,
                    folder,
                    image="file",
                    sections=SECTIONS,
                    key="uid",
                    asked=read_value(first.get(PROMPT)) is not None,
                ),
            )


def _read_names(place: str, file: Any) -> list[str]:
    """The image names that `file` of an object has. Raises DatasetError where one is blank, null or not a text."""
    names = file if isinstance(file, list) else [file]
    if not names or not all(isinstance(name, str) and read_value(name) for name in names):
        raise DatasetError(f"{place}: file is blank, null or not a text; give a file name or a list of them")
    return names
