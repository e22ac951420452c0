"""Features that an encoder gave, `{"embedding": [...], "report": text}` in one file a sample (system 0)."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from training.datasets.files import filled, read_json, read_records
from training.datasets.study import DatasetError, Study


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read every JSON file of the folder, in the order of their names; a file is a patient."""
    for file in sorted(path.glob("*.json")):
        [(place, record)] = read_records(file, [read_json(file)], ("embedding", "report"))
        sections = filled({"report": record["report"]}, place)
        yield Study(file.stem, (), sections, file.stem, (), path.name, None, {}, features=file)


def read_embedding(file: Path) -> np.ndarray:
    """The features of one file of the kind above.

    returns : float32, shape (width,) or (tokens, width)

    Raises DatasetError for what is no array of finite numbers.
    """
    [(place, record)] = read_records(file, [read_json(file)], ("embedding",))
    try:
        embedding = np.asarray(record["embedding"], dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{place}: embedding is no array of numbers: {error}; extract the features again") from error
    if embedding.ndim not in (1, 2) or not embedding.size or not np.isfinite(embedding).all():
        raise DatasetError(
            f"{place}: embedding has shape {embedding.shape} or is not finite; expected (width,) or (tokens, width)"
        )
    return embedding
