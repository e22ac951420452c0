"""What a model has been trained on: kept in its model folder, so that no evaluation scores it on that."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.datasets.source import Source
from training.datasets.study import DatasetError, Study

TRAINED_ON = "trained_on.json"

SAMPLE = 1 << 16
"""Bytes at each end of an image file that identify it together with its size."""


@dataclass(frozen=True)
class TrainedOn:
    """The data set of a training run, and the studies that the weights have learned from.

    dataset : section `dataset` of the run
    studies : marks of the studies, those of the runs before included where training began with a trained model
    """

    dataset: Mapping[str, Any]
    studies: frozenset[str]

    def knows(self, study: Study, source: Source) -> bool:
        """Whether the model has been trained on a study: any one mark is enough."""
        # Images are read last: in the data set of the training, ids tell.
        return not self.studies.isdisjoint(mark_texts(study, source)) or any(
            mark_image(image) in self.studies for image in _list_files(study)
        )


def mark_texts(study: Study, source: Source) -> list[str]:
    """Marks of a study's id: in its format, and with each of its target texts in any format.

    A text without the id is not a mark: reports of normal studies are often the same. Case, punctuation and white
    space of the text do not matter.
    """
    reports = [study, *(replace(study, sections=report, further=()) for report in study.further)]
    texts = {report.text(names) for report in reports for names in (source.sections, *([n] for n in source.sections))}
    words = sorted({" ".join(re.findall(r"\w+", text.casefold())) for text in texts} - {""})
    return [_mark("id", source.format, study.study_id), *(_mark("text", study.study_id, text) for text in words)]


def mark_image(file: Path) -> str | None:
    """The mark of an image or of a file of features; None where it is not on this disk.

    Of its size and both its ends: a study of several terabytes of images is marked without reading them whole.
    """
    try:
        with file.open("rb") as data:
            size = data.seek(0, 2)
            data.seek(0)
            head = data.read(SAMPLE)
            data.seek(max(size - SAMPLE, 0))
            return _mark("image", size, hashlib.sha256(head + data.read(SAMPLE)).hexdigest())
    except OSError:
        return None


def split_known(
    parts: Mapping[str, Sequence[Study]], split: str, source: Source, trained_on: TrainedOn
) -> tuple[list[Study], int, int]:
    """The studies of a split that can be scored, and how many cannot.

    parts : all studies of the data set by split

    returns : studies that can be scored, number trained on, number of further ones whose patient has a study trained on
    """
    known = {study.study_id: study.unit for part in parts.values() for study in part if trained_on.knows(study, source)}
    units = set(known.values())
    others = [study for study in parts[split] if study.study_id not in known]
    fresh = [study for study in others if study.unit not in units]
    return fresh, len(parts[split]) - len(others), len(others) - len(fresh)


def _list_files(study: Study) -> Iterable[Path]:
    return (*study.images, *([study.features] if study.features else []))


def _mark(*parts: object) -> str:
    """48 bits of a hash: it recognizes a study and tells nothing about it."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def summarize(studies: Iterable[str]) -> str:
    """One hash of all marks: differs if any study does."""
    return hashlib.sha256("".join(studies).encode()).hexdigest()


def write_trained_on(folder: Path, record: TrainedOn) -> None:
    """Write it into a model folder."""
    contents = {"dataset": dict(record.dataset), "marks": sorted(record.studies)}
    (folder / TRAINED_ON).write_text(json.dumps(contents), encoding="utf-8")


def read_trained_on(folder: Path) -> TrainedOn | None:
    """The record in a model folder; None for a model that was imported. Raises DatasetError for a damaged file."""
    path = folder / TRAINED_ON
    if not path.is_file():
        return None
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        return TrainedOn(contents["dataset"], frozenset(contents["marks"]))
    # A record of before marks has no such key: it would recognize nothing.
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; take it from the trained model again") from error
