"""What every data set gives: examinations with their images and reports."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from prelim.errors import PrelimError

SPLITS = ("train", "val", "test")
"""The splits that a study can be in."""


class DatasetError(PrelimError):
    """A data set cannot be used; the message names the file, and the row or key in it."""


@dataclass(frozen=True)
class Study:
    """One examination: its images, and what was written about them.

    study_id    : unique within its data set
    images      : image files, in the order of the data set, whether they are on this disk or not; empty where the data
                  set has only text
    sections    : text by the name of its section, in lower case: `findings`, `impression`, `indication`, `comparison`;
                  a text without sections is `report`. As the data set has it, not cleaned; a section without words is
                  left out
    patient_id  : studies of one patient share it, and are never in different splits; None where the data set does not
                  say who the patient is
    views       : of each image ("frontal", "lateral", "PA", ... as the data set says it), empty strings where unknown
    source      : the data set, or the part of it, that the study comes from
    split       : one of SPLITS where the data set fixes it, else None
    labels      : what else the data set says about the study, by name; `prompt` is what is asked about the images
    features    : file with the vision encoder's output for the study, where the data set has that instead of images
    group       : what studies share if the patient is unknown: the figure's article, the image of several questions
    place       : file and line or entry, for messages
    further     : sections of further reports on the same images, by other readers or in other words
    """

    study_id: str
    images: tuple[Path, ...]
    sections: Mapping[str, str]
    patient_id: str | None
    views: tuple[str, ...]
    source: str
    split: str | None
    labels: Mapping[str, str]
    features: Path | None = None
    group: str = ""
    further: tuple[Mapping[str, str], ...] = ()
    place: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if len(self.views) != len(self.images):
            raise DatasetError(
                f"{self.place or 'study'} {self.study_id} has {len(self.images)} images and {len(self.views)} views; "
                "give one view for each image, or none"
            )
        if self.split is not None and self.split not in SPLITS:
            raise DatasetError(f"study {self.study_id} is in split {self.split!r}; allowed: {', '.join(SPLITS)}")

    @property
    def unit(self) -> str:
        """What is never divided among splits: the patient; where that is unknown, the group, else the study."""
        return self.patient_id or self.group or self.study_id

    def text(self, sections: Sequence[str]) -> str:
        """The named sections that the study has, in this order, joined by a space.

        `report`, the text as a whole, is only used if none of the other named sections is there: it contains them.
        """
        return _join(self.sections, sections)

    def texts(self, sections: Sequence[str]) -> tuple[str, ...]:
        """What `text` gives, of every report of the study that has it, each wording once."""
        found = (_join(report, sections) for report in (self.sections, *self.further))
        return tuple(dict.fromkeys(text for text in found if text.strip()))


def _join(report: Mapping[str, str], sections: Sequence[str]) -> str:
    named = " ".join(report[name] for name in sections if name != "report" and report.get(name))
    return named or (report.get("report", "") if "report" in sections else "")


class Reader(Protocol):
    """One format: gives the studies one by one, so that what is not asked for is not read."""

    def __call__(self, path: Path, images: Path | None) -> Iterator[Study]:
        """Read the data set at `path`; image names are relative to `images`, None means the format's own place."""
        ...
