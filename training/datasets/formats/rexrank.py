"""ReXrank's JSON: studies in, the same studies with `model_prediction` out, as its leaderboard wants them.

{"study id": {"image_path": [...], "key_image_path": "...", "frontal_lateral": [...], "context": "...",
              "section_findings": "...", "section_impression": "...", "report": "...", "split": "test"}}
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.datasets.study import SPLITS, DatasetError, Study

PREDICTION = "model_prediction"
_SECTIONS = {"findings": "section_findings", "impression": "section_impression", "report": "report"}


def read(path: Path, images: Path | None = None) -> Iterator[Study]:
    """The studies of a file, the key image of each first.

    images : folder that image names are relative to; None: that of the file

    Raises DatasetError naming the study and the key.
    """
    folder = images or path.parent
    for study_id, entry in read_json(path).items():
        names = _texts(path, study_id, entry, "image_path")
        views = _texts(path, study_id, entry, "frontal_lateral") or [""] * len(names)
        key = entry.get("key_image_path") or (names[0] if names else "")
        if key not in names:
            names, views = [key, *names], ["", *views]
        order = sorted(range(len(names)), key=lambda i: names[i] != key)
        split = entry.get("split")
        yield Study(
            study_id=study_id,
            images=tuple(folder / names[i] for i in order),
            sections={name: str(entry[key]) for name, key in _SECTIONS.items() if entry.get(key)},
            patient_id=str(entry.get("patient_id") or entry.get("subject_id") or study_id),
            views=tuple(views[i] for i in order),
            source=path.stem,
            split=split if split in SPLITS else None,
            labels={"context": str(entry["context"])} if entry.get("context") else {},
        )


def read_predictions(path: Path) -> dict[str, str]:
    """`model_prediction` of every study. Raises DatasetError where one has none."""
    predictions = {}
    for study_id, entry in read_json(path).items():
        if not isinstance(entry.get(PREDICTION), str):
            raise DatasetError(f"{path}, study {study_id}: {PREDICTION} is missing; it must be the generated text")
        predictions[study_id] = entry[PREDICTION]
    return predictions


def write(path: Path, studies: Sequence[Study], predictions: Sequence[str], source: Path | None = None) -> None:
    """Write the studies with their predictions.

    source : ReXrank's own file, whose entries are then kept as they are; None makes them from the studies
    """
    given = read_json(source) if source is not None else {}
    entries = {
        study.study_id: {**(given.get(study.study_id) or _entry(study)), PREDICTION: text}
        for study, text in zip(studies, predictions, strict=True)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The file. Raises DatasetError where it is not an object of objects."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise DatasetError(f"{path} is not ReXrank's JSON: an object with one object for every study id")
    return entries


def _entry(study: Study) -> dict[str, Any]:
    names = [image.name for image in study.images]
    return {
        "image_path": names,
        "key_image_path": names[0] if names else "",
        "frontal_lateral": list(study.views),
        "context": study.labels.get("context", ""),
        **{key: study.sections.get(name, "") for name, key in _SECTIONS.items()},
        "patient_id": study.patient_id,
        "split": study.split or "",
    }


def _texts(path: Path, study_id: str, entry: Mapping[str, Any], key: str) -> list[str]:
    value = entry.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DatasetError(f"{path}, study {study_id}: {key} is {value!r}; it must be a list of texts")
    return list(value)
