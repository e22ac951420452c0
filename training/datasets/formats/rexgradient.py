"""ReXGradient-160K: one JSON file a split, an object of studies with their sections and images.

{"pGRDN..._aGRDN..._s1.2...": {"PatientID", "PatientSex", "PatientAge", "ImagePath": [...], "ImageViewPosition": [...],
                               "Indication", "Comparison", "Findings", "Impression"}}
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training.datasets.files import check_keys, collect_labels, keep_texts, read_json
from training.datasets.image_files import ImageFolder
from training.datasets.membership import read_membership
from training.datasets.split_names import SplitReader, find_split
from training.datasets.study import DatasetError, Study

SECTIONS = ("Indication", "Comparison", "Findings", "Impression")
PATTERN = "*_[mM]etadata*.json"


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read one file, or train_metadata.json and its like in a folder or its `metadata/`; the name says the split.

    Image paths begin with `../deid_png/...` in some versions: that is dropped as far as `deid_png`, and the rest is
    looked for in `images`, next to the files or one folder up.
    """
    found = [path] if path.is_file() else sorted(path.glob(PATTERN)) or sorted(path.glob(f"metadata/{PATTERN}"))
    files = _choose_files(found)
    if not files:
        raise DatasetError(f"{path} has no {PATTERN}; give the folder with train_metadata.json, or one file, as path")
    splits = SplitReader()
    for split, file in files:
        contents = read_json(file)
        if not isinstance(contents, dict):
            raise DatasetError(f"{file} has {type(contents).__name__} where an object of studies is expected")
        folder = ImageFolder(*([images] if images else [file.parent, file.parent.parent]))
        for study_id, entry in contents.items():
            place = f"{file}, study {study_id}"
            check_keys(place, entry, ("ImagePath", *SECTIONS))
            names = [name.rpartition("../")[2] for name in _read_list(place, entry, "ImagePath")]
            views = _read_list(place, entry, "ImageViewPosition") or [""] * len(names)
            patient, own_split, keys = read_membership(entry, place, splits, study_id)
            yield Study(
                study_id=study_id,
                images=tuple(folder.find(name) for name in names),
                sections=keep_texts({name.lower(): entry[name] for name in SECTIONS}, place),
                patient_id=patient,
                views=tuple(views),
                source="ReXGradient",
                split=own_split or split,
                labels={
                    {"PatientSex": "sex", "PatientAge": "age"}.get(name, name): value
                    for name, value in collect_labels(entry, (*SECTIONS, *keys)).items()
                },
                place=place,
            )


def _choose_files(found: Sequence[Path]) -> list[tuple[str | None, Path]]:
    """The files with their splits, every part of a split.

    A file with views contains what those of the same split without them have.
    """
    parts: dict[str | None, list[Path]] = {}
    for file in found:
        parts.setdefault(find_split(file.name), []).append(file)
    with_views = {split: [file for file in files if "view" in file.name.lower()] for split, files in parts.items()}
    return [(split, file) for split, files in parts.items() for file in with_views[split] or files]


def _read_list(place: str, entry: dict[str, Any], key: str) -> list[str]:
    value = entry.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, str | None) for item in value):
        raise DatasetError(f"{place}: {key} is {type(value).__name__}; expected a list of texts")
    return [item or "" for item in value]
