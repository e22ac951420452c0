"""What a model has been trained on: kept in its model folder, so that no evaluation scores it on that."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from prelim.archive.archive import WEIGHTS
from prelim.archive.manifest import sha256_of
from training.datasets.checks.duplicates import is_near_any
from training.datasets.checks.image_facts import examine_image
from training.datasets.patients import find_published
from training.datasets.source import Source
from training.datasets.study import DatasetError, Study

TRAINED_ON = "trained_on.json"

SAMPLE = 1 << 16
"""Bytes at each end of an image file that identify it together with its size."""


DISTINCTIVE = re.compile(r"(?=.*\d)(?:(?:\W*\w){12}|(?:\D*\d){8})")
"""Ids that no other data set is likely to use, such as UIDs and accession numbers."""

LONG_TEXT = 8
"""Words from which on a text together with the number in an id tells a study."""

PICTURES = 20_000
"""Training images that are recognized as pictures, at most: each has to be decoded."""


@dataclass(frozen=True)
class TrainedOn:
    """The data set of a training run, and the studies that the weights have learned from.

    dataset  : section `dataset` of the run
    studies  : marks of the studies, those of the runs before included where training began with a trained model
    chosen   : marks of the studies that the weights were chosen on
    pictures : perceptual hashes of the images, see `hash_pictures`
    """

    dataset: Mapping[str, Any]
    studies: frozenset[str]
    chosen: frozenset[str] = frozenset()
    pictures: frozenset[str] = frozenset()

    def knows(self, study: Study, source: Source) -> bool:
        """Whether the model has been trained on a study: any one mark is enough."""
        return _has_mark(self.studies, study, source)

    def knows_patient(self, study: Study, source: Source) -> bool:
        """Whether the model has been trained on a patient of a published data set, in any format of it."""
        return (mark := mark_patient(study, source)) is not None and mark in self.studies

    def was_chosen_on(self, study: Study, source: Source) -> bool:
        """Whether the weights were chosen on a study."""
        return _has_mark(self.chosen, study, source)

    def is_of(self, source: Source) -> bool:
        """Whether a data set is that of the training, however its path is written."""
        path = self.dataset.get("path")
        if path is None or self.dataset.get("format") != source.format:
            return False
        try:
            return Path(path).samefile(source.path)  # also in another case, where the file system knows none
        except OSError:
            return Path(path).resolve() == Path(source.path).resolve()

    def find_pictures(self, studies: Sequence[Study], source: Source) -> set[str]:
        """Ids of the studies with a picture that the model was trained on, whatever its id and its bytes are.

        Also in the data set of the training, where a copy may be in another split under another id.
        """
        if not self.pictures:
            return set()
        owners = [(study.study_id, image) for study in studies for image in study.images]
        hashes = [hash_picture(image, source.frame) for _, image in owners]
        learned = np.array([np.frombuffer(bytes.fromhex(text), np.uint64) for text in self.pictures])
        return {
            owner
            for (owner, _), bits in zip(owners, hashes, strict=True)
            if bits is not None and is_near_any(bits, learned)
        }


def _has_mark(marks: Set[str], study: Study, source: Source) -> bool:
    # Images are read last: in the data set of the training, ids tell.
    return not marks.isdisjoint(mark_texts(study, source)) or any(
        mark_image(image) in marks for image in _list_files(study)
    )


def mark_texts(study: Study, source: Source) -> list[str]:
    """Marks of a study's id, alone and with each of its target texts.

    Alone, the id counts in its format; in any format where it is a study of a published data set
    (`find_published`), or DISTINCTIVE. With a text it counts in any format; with a LONG_TEXT so does the only number in
    it: `1` is `CXR1`. Case does not matter in ids, nor case, punctuation and white space in texts. A text without the
    id is not a mark: reports of normal studies are often the same.
    """
    reports = [study, *(replace(study, sections=report, further=()) for report in study.further)]
    texts = {report.text(names) for report in reports for names in (source.sections, *([n] for n in source.sections))}
    words = sorted({" ".join(re.findall(r"\w+", text.casefold())) for text in texts} - {""})
    name = study.study_id.strip().casefold()
    published, _ = _find_published(study, source)
    numbers = re.findall(r"\d+", name)
    number = str(int(numbers[0])) if len(numbers) == 1 else name
    return [
        _mark("id", source.format, name),
        *([_mark("study", published)] if published else []),
        *([_mark("study", name)] if DISTINCTIVE.match(name) else []),
        *(_mark("text", name, text) for text in words),
        *(_mark("text", number, text) for text in words if number != name and len(text.split()) >= LONG_TEXT),
    ]


def mark_patient(study: Study, source: Source) -> str | None:
    """The mark of a patient of a published data set; None for others, whose numbers may be those of anybody."""
    _, patient = _find_published(study, source)
    return _mark("patient", patient) if patient else None


def _find_published(study: Study, source: Source) -> tuple[str | None, str | None]:
    paths = ("/".join(file.parts[-4:]) for file in _list_files(study))
    names = (study.study_id, *(study.labels[key] for key in ("study_id", "uid") if key in study.labels), *paths)
    return find_published(names, study.patient_id, source.format)


def hash_pictures(images: Iterable[Path], frame: int = 0) -> frozenset[str]:
    """Perceptual hashes of the first PICTURES images that can be read, 256 bits in hexadecimal digits."""
    first = islice(dict.fromkeys(images), PICTURES)
    return frozenset(bits.tobytes().hex() for image in first if (bits := hash_picture(image, frame)) is not None)


def hash_picture(image: Path, frame: int = 0) -> np.ndarray | None:
    """The perceptual hash of an image; None where it cannot be read, or has one gray level."""
    facts = examine_image(image, frame)
    return facts.bits if facts.std else None


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
    unknown = [study for study in parts[split] if study.study_id not in known]
    seen = trained_on.find_pictures(unknown, source)
    known |= {study.study_id: study.unit for study in unknown if study.study_id in seen}
    units = set(known.values())
    others = [study for study in unknown if study.study_id not in known]
    fresh = [study for study in others if study.unit not in units and not trained_on.knows_patient(study, source)]
    return fresh, len(parts[split]) - len(others), len(others) - len(fresh)


def _list_files(study: Study) -> Iterable[Path]:
    return (*study.images, *([study.features] if study.features else []))


def _mark(*parts: object) -> str:
    """48 bits of a hash: it recognizes a study and tells nothing about it."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def summarize(studies: Iterable[str]) -> str:
    """One hash of all marks: differs if any study does."""
    return hashlib.sha256("".join(studies).encode()).hexdigest()


def name_weights(folder: Path) -> dict[str, str]:
    """Which weights a file of figures is of: the sha256 of those in a model folder, for its key `weights`."""
    return {"weights": sha256_of(folder / WEIGHTS)}


def write_trained_on(folder: Path, record: TrainedOn) -> None:
    """Write it into a model folder."""
    contents = {
        "dataset": dict(record.dataset),
        "marks": sorted(record.studies),
        "chosen": sorted(record.chosen),
        "pictures": sorted(record.pictures),
    }
    (folder / TRAINED_ON).write_text(json.dumps(contents), encoding="utf-8")


def read_trained_on(folder: Path) -> TrainedOn | None:
    """The record in a model folder; None for a model that was imported. Raises DatasetError for a damaged file."""
    path = folder / TRAINED_ON
    if not path.is_file():
        return None
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        # `chosen` and `pictures` are later additions.
        later = (frozenset(contents.get(name, ())) for name in ("chosen", "pictures"))
        return TrainedOn(contents["dataset"], frozenset(contents["marks"]), *later)
    # A record of before marks has no such key: it would recognize nothing.
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; take it from the trained model again") from error
