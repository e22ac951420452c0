"""ReXrank's JSON: studies in, the same studies with `model_prediction` out, as its leaderboard wants them.

{"study id": {"image_path": [...], "key_image_path": "...", "frontal_lateral": [...], "context": "...",
              "section_findings": "...", "section_impression": "...", "report": "...", "split": "test"}}
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.datasets import files
from training.datasets.files import collect_labels, keep_texts
from training.datasets.image_files import ImageFolder
from training.datasets.membership import read_membership
from training.datasets.split_names import SplitReader
from training.datasets.study import DatasetError, Study

PREDICTION = "model_prediction"
_SECTIONS = {"findings": "section_findings", "impression": "section_impression", "report": "report"}
_KNOWN = (*_SECTIONS.values(), "reports", "key_image_path", PREDICTION)


def read(path: Path, images: Path | None = None) -> Iterator[Study]:
    """The studies of a file, the key image of each first. Some files call the report `reports`.

    images : folder that image names are relative to; None: that of the file

    The patient is named by the entry or its id (MIMIC-CXR, CheXpert, Open-i, ReXGradient), else unknown.

    Raises DatasetError naming the study and the key.
    """
    path = files.find_file(path)
    folder = ImageFolder(images or path.parent)
    splits = SplitReader()
    for study_id, entry in read_json(path).items():
        place = f"{path}, study {study_id}"
        names = _read_list(place, entry, "image_path")
        views = _read_list(place, entry, "frontal_lateral") or [""] * len(names)
        if len(views) != len(names):
            raise DatasetError(
                f"{place}: frontal_lateral has {len(views)} views, image_path {len(names)} images; give one for each"
            )
        key = entry.get("key_image_path") or (names[0] if names else "")
        if key and key not in names:
            names, views = [key, *names], ["", *views]
        order = sorted(range(len(names)), key=lambda i: names[i] != key)
        texts = {name: entry.get(key) for name, key in _SECTIONS.items()}
        patient, split, keys = read_membership(entry, place, splits, study_id)
        yield Study(
            study_id=study_id,
            images=tuple(folder.find(names[i]) for i in order),
            sections=keep_texts({**texts, "report": _find_report(place, entry)}, place),
            patient_id=patient,
            views=tuple(views[i] for i in order),
            source=path.stem,
            split=split,
            labels=collect_labels(entry, (*_KNOWN, *keys)),
            place=place,
        )


def _find_report(place: str, entry: Mapping[str, Any]) -> Any:
    """Raises DatasetError for an entry with two different ones."""
    found = [entry[key] for key in ("report", "reports") if entry.get(key)]
    if len(found) > 1 and str(found[0]).split() != str(found[1]).split():
        raise DatasetError(f"{place} has different texts under report and reports; keep one")
    return found[0] if found else None


def read_predictions(path: Path) -> dict[str, str]:
    """`model_prediction` of every study. Raises DatasetError where one has none."""
    predictions = {}
    for study_id, entry in read_json(path).items():
        if not isinstance(entry.get(PREDICTION), str):
            raise DatasetError(f"{path}, study {study_id}: {PREDICTION} is missing; it must be the generated text")
        predictions[study_id] = entry[PREDICTION]
    return predictions


def write(path: Path, studies: Sequence[Study], predictions: Sequence[str], source: Path | None = None) -> None:
    """Write the studies with their predictions. Images are named by their paths below the folder common to all.

    source : ReXrank's own file, whose entries are then kept as they are; None makes them from the studies
    """
    given = read_json(source) if source is not None else {}
    folders = [str(image.parent) for study in studies for image in study.images]
    root = Path(os.path.commonpath(folders)) if folders else Path()
    entries = {
        study.study_id: {**(given.get(study.study_id) or _make_entry(study, root)), PREDICTION: text}
        for study, text in zip(studies, predictions, strict=True)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The file. Raises DatasetError where it is not an object of objects."""
    entries = files.read_json(files.find_file(path))
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise DatasetError(f"{path} is not ReXrank's JSON: an object with one object for every study id")
    return entries


def _make_entry(study: Study, root: Path) -> dict[str, Any]:
    names = [image.relative_to(root).as_posix() for image in study.images]
    return {
        "image_path": names,
        "key_image_path": names[0] if names else "",
        "frontal_lateral": list(study.views),
        "context": study.labels.get("context", ""),
        **{key: study.sections.get(name, "") for name, key in _SECTIONS.items()},
        "patient_id": study.patient_id or "",
        "split": study.split or "",
    }


def _read_list(place: str, entry: Mapping[str, Any], key: str) -> list[str]:
    value = entry.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DatasetError(f"{place}: {key} is not a list of texts; correct it")
    return list(value)
