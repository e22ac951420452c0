"""ReXGradient-160K: one JSON file a split, an object of studies with their sections and images.

{"pGRDN..._aGRDN..._s1.2...": {"PatientID", "PatientSex", "PatientAge", "ImagePath": [...], "ImageViewPosition": [...],
                               "Indication", "Comparison", "Findings", "Impression"}}
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.datasets.files import SPLIT_NAMES, check_keys, collect_labels, keep_texts, read_json
from training.datasets.image_files import ImageFolder
from training.datasets.patients import find_patient
from training.datasets.study import DatasetError, Study

SECTIONS = ("Indication", "Comparison", "Findings", "Impression")
PATTERN = "*_metadata*.json"


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read one file, or train_metadata.json and its like in a folder or its `metadata/`; the name says the split.

    Image paths begin with `../deid_png/...` in some versions: that is dropped as far as `deid_png`, and the rest is
    looked for in `images`, next to the files or one folder up.
    """
    found = [path] if path.is_file() else sorted(path.glob(PATTERN)) or sorted(path.glob(f"metadata/{PATTERN}"))
    # A file with views contains what the one of the same split without them has.
    files = {file.name.partition("_")[0]: file for file in sorted(found, key=lambda file: len(file.name))}
    if not files:
        raise DatasetError(f"{path} has no {PATTERN}; give the folder with train_metadata.json, or one file, as path")
    for split, file in files.items():
        contents = read_json(file)
        if not isinstance(contents, dict):
            raise DatasetError(f"{file} has {type(contents).__name__} where an object of studies is expected")
        folder = ImageFolder(*([images] if images else [file.parent, file.parent.parent]))
        for study_id, entry in contents.items():
            place = f"{file}, study {study_id}"
            check_keys(place, entry, ("ImagePath", *SECTIONS))
            names = [name.rpartition("../")[2] for name in _read_list(place, entry, "ImagePath")]
            views = _read_list(place, entry, "ImageViewPosition") or [""] * len(names)
            yield Study(
                study_id=study_id,
                images=tuple(folder.find(name) for name in names),
                sections=keep_texts({name.lower(): entry[name] for name in SECTIONS}, place),
                patient_id=str(entry["PatientID"]) if entry.get("PatientID") else find_patient(study_id),
                views=tuple(views),
                source="ReXGradient",
                split=SPLIT_NAMES.get(split),
                labels={
                    {"PatientSex": "sex", "PatientAge": "age"}.get(name, name): value
                    for name, value in collect_labels(entry, (*SECTIONS, "PatientID")).items()
                },
                place=place,
            )


def _read_list(place: str, entry: dict[str, Any], key: str) -> list[str]:
    value = entry.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str | None) for item in value):
        raise DatasetError(f"{place}: {key} is {type(value).__name__}; expected a list of texts")
    return [item or "" for item in value]
