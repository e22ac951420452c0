"""What every data set gives: examinations with their images and reports."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

SPLITS = ("train", "val", "test")
"""The splits that a study can be in."""


class DatasetError(Exception):
    """A data set cannot be used; the message names the file, and the row or key in it."""


@dataclass(frozen=True)
class Study:
    """One examination: its images, and what was written about them.

    study_id   : unique within its data set
    images     : image files, in the order of the data set, whether they are on this disk or not; empty where the data
                 set has the text alone
    sections   : text by the name of its section, in lower case: `findings`, `impression`, `indication`, `comparison`;
                 a text without sections is `report`. As it stands in the data set, not cleaned; a blank section is
                 left out
    patient_id : studies of one patient share it, and never lie in different splits
    views      : of each image ("frontal", "lateral", "PA", ... as the data set says it), empty strings where unknown
    source     : the data set, or the part of it, that the study comes from
    split      : one of SPLITS where the data set fixes it, else None
    labels     : what else the data set says of the study, by name; `prompt` is what is asked about the images
    features   : file with what an image encoder gave for the study, where the data set has that instead of images
    """

    study_id: str
    images: tuple[Path, ...]
    sections: Mapping[str, str]
    patient_id: str
    views: tuple[str, ...]
    source: str
    split: str | None
    labels: Mapping[str, str]
    features: Path | None = None

    def __post_init__(self) -> None:
        if len(self.views) != len(self.images):
            raise DatasetError(f"study {self.study_id} has {len(self.images)} images and {len(self.views)} views")
        if self.split is not None and self.split not in SPLITS:
            raise DatasetError(f"study {self.study_id} is in split {self.split!r}; allowed: {', '.join(SPLITS)}")

    def text(self, sections: Sequence[str]) -> str:
        """The named sections that the study has, in this order, joined by a space."""
        return " ".join(self.sections[name] for name in sections if self.sections.get(name))


class Reader(Protocol):
    """One format: gives the studies one by one, so that what is not asked for is not read."""

    def __call__(self, path: Path, images: Path | None) -> Iterator[Study]:
        """Read the data set at `path`; image names are relative to `images`, None means the format's own place."""
        ...
