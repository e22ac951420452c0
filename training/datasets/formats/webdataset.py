"""WebDataset: tar files whose members of one name are a sample: `0001.png` with `0001.txt` or `0001.json`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.datasets.archives import read_members
from training.datasets.files import SPLIT_NAMES, collect_labels, keep_readings
from training.datasets.image_files import IMAGE_SUFFIXES, write_image
from training.datasets.patients import find_patient
from training.datasets.study import DatasetError, Study

SECTIONS = ("findings", "impression", "indication", "comparison", "report")
TEXTS = (".txt", ".json")


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read one tar file or all of a folder; a name that begins with a split (train-0000.tar) says it.

    images : folder that the images are written to, by the hash of their bytes

    A .txt is the report; a .json has SECTIONS, or `caption` as the report, and labels. A list of texts is several
    references. Members of a sample follow each
    other, as the format has it.
    """
    if images is None:
        raise DatasetError(f"the images are inside {path}; give as images the folder to write them to (about its size)")
    files = sorted(path.rglob("*.tar*")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DatasetError(f"{path} has no tar files; give one, or a folder of them, as path")
    for file in files:
        split = SPLIT_NAMES.get(file.name.replace("_", "-").partition("-")[0].lower())
        for key, members in _read_samples(file):
            place = f"{file}, sample {key}"
            pictures = [data for suffix, data in members.items() if suffix in IMAGE_SUFFIXES]
            record = _read_texts(place, members)
            sections, further = keep_readings([{name: record.get(name) for name in SECTIONS}], place)
            yield Study(
                study_id=f"{file.name.partition('.')[0]}/{key}",
                images=tuple(write_image(data, images) for data in pictures),
                sections=sections,
                further=further,
                patient_id=str(record["patient"]) if record.get("patient") else find_patient(key),
                views=("",) * len(pictures),
                source=path.stem,
                split=split,
                labels=collect_labels(record, (*SECTIONS, "patient", "caption")),
                place=place,
            )


def _read_samples(file: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Every sample with the bytes of its members by suffix; members of other kinds are passed over."""
    key = ""
    members: dict[str, bytes] = {}
    for path, data in read_members(file):
        folder, _, name = path.rpartition("/")
        stem, _, suffix = name.partition(".")
        if f"{folder}/{stem}" != key and members:
            yield key.lstrip("/"), members
            members = {}
        key = f"{folder}/{stem}"
        if f".{suffix.lower()}" in (*IMAGE_SUFFIXES, *TEXTS):
            members[f".{suffix.lower()}"] = data
    if members:
        yield key.lstrip("/"), members


def _read_texts(place: str, members: dict[str, bytes]) -> dict[str, Any]:
    try:
        record = json.loads(members.get(".json", b"{}"))
        report = members[".txt"].decode("utf-8") if ".txt" in members else None
    except ValueError as error:
        raise DatasetError(f"{place}: its text is not UTF-8 or not JSON: {error}; write the tar file again") from error
    if not isinstance(record, dict):
        raise DatasetError(f"{place}: its JSON is {type(record).__name__}; expected an object")
    return {**record, "report": report or record.get("report") or record.get("caption")}
