"""What a model has been trained on: kept in its model folder, so that no evaluation scores it on that."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.datasets.study import DatasetError, Study

TRAINED_ON = "trained_on.json"


@dataclass(frozen=True)
class TrainedOn:
    """The data set of a training run, and the studies that the weights have learned from.

    dataset : section `dataset` of the run
    studies : fingerprints, those of the runs before included where training began with a trained model
    """

    dataset: Mapping[str, Any]
    studies: frozenset[str]

    def count_known(self, studies: Iterable[Study]) -> int:
        """How many of the studies the model has been trained on."""
        return sum(study.fingerprint in self.studies for study in studies)


def make_fingerprint(study: Study) -> str:
    """48 bits of a hash of the id and all texts: it recognizes a study and tells nothing about it.

    Another format of the same data has other ids, and other fingerprints.
    """
    further = [sorted(report.items()) for report in study.further]
    texts = json.dumps([study.study_id, sorted(study.sections.items()), *further])
    return hashlib.sha256(texts.encode()).hexdigest()[:12]


def summarize(studies: Iterable[str]) -> str:
    """One hash of all fingerprints: differs if any study does."""
    return hashlib.sha256("".join(studies).encode()).hexdigest()


def write_trained_on(folder: Path, record: TrainedOn) -> None:
    """Write it into a model folder."""
    contents = {"dataset": dict(record.dataset), "studies": sorted(record.studies)}
    (folder / TRAINED_ON).write_text(json.dumps(contents), encoding="utf-8")


def read_trained_on(folder: Path) -> TrainedOn | None:
    """The record in a model folder; None for a model that was imported. Raises DatasetError for a damaged file."""
    path = folder / TRAINED_ON
    if not path.is_file():
        return None
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        return TrainedOn(contents["dataset"], frozenset(contents["studies"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; take it from the trained model again") from error
