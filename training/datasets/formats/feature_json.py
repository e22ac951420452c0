"""The vision encoder's output, `{"embedding": [...], "report": text}`, in one file a sample (system 0)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.datasets.files import collect_labels, keep_texts, read_json, read_records
from training.datasets.membership import read_membership
from training.datasets.split_names import SplitReader
from training.datasets.study import DatasetError, Study


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read every JSON file of the folder, by name; patient and split are unknown where it has none."""
    if path.is_file():
        raise DatasetError(f"{path} is a file; give the folder with the JSON files as path")
    splits = SplitReader()
    for file in sorted(path.glob("*.json")):
        [(place, record)] = read_records(file, [read_json(file)], ("embedding", "report"))
        patient, split, keys = read_membership(record, place, splits, file.stem)
        yield Study(
            study_id=file.stem,
            images=(),
            sections=keep_texts({"report": record["report"]}, place),
            patient_id=patient,
            views=(),
            source=path.name,
            split=split,
            labels=collect_labels(record, ("report", "embedding", *keys)),
            features=file,
            place=str(file),
        )


def read_embedding(file: Path) -> np.ndarray:
    """The features in one file of this format.

    returns : float32, shape (width,) or (tokens, width)

    Raises DatasetError for anything but an array of finite numbers.
    """
    [(place, record)] = read_records(file, [read_json(file)], ("embedding",))
    try:
        embedding = np.asarray(record["embedding"], dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"{place}: embedding is not an array of numbers: {error}; extract the features again"
        ) from error
    if embedding.ndim not in (1, 2) or not embedding.size or not np.isfinite(embedding).all():
        raise DatasetError(
            f"{place}: embedding has shape {embedding.shape} or is not finite; expected finite numbers of shape "
            "(width,) or (tokens, width): extract the features again"
        )
    return embedding
