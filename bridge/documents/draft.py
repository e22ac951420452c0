"""A draft: the server's answer, and the images and study that it is about."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset

NOTICE = (
    "UNVERIFIED DRAFT. This text was written by software from the images alone and has not been read by a physician. "
    "It is not a diagnosis. The interpreting physician must read the images and write the report."
)
BANNER = "[UNVERIFIED DRAFT] "
PLACES = (
    "Where the software sees what a phrase says, in pixels of the image as it is stored (column, row of the upper left "
    "and the lower right corner):"
)
CONFIRM = "Sentences to confirm first, with the model's confidence in each (0 to 1):"

LONGEST_PHRASE = 100
"""Characters of a phrase that are repeated next to each of its boxes."""

NOT_STATED = "GAP"
"""Use of a model whose license nobody has stated, as the server writes it."""

TITLE = CodedConcept("18748-4", "LN", "Diagnostic imaging study")
COMPARISON = "comparison"
SECTIONS = {
    COMPARISON: (
        CodedConcept("55114-3", "LN", "Prior Procedure Descriptions"),
        CodedConcept("121065", "DCM", "Procedure Description"),
    ),
    "findings": (CodedConcept("59776-5", "LN", "Findings"), CodedConcept("121071", "DCM", "Finding")),
    "impression": (CodedConcept("19005-8", "LN", "Impressions"), CodedConcept("121073", "DCM", "Impression")),
}
"""Section of a draft -> code of its heading (PS3.16 CID 7001) and of its text (CID 7002)."""

CONTROL = {code: None for code in (*range(32), *range(127, 160)) if code != 10} | {9: " "}
"""Control characters, which neither DICOM text (PS3.5 6.1.3) nor XML nor HL7 takes; line feed stays."""


@dataclass(frozen=True)
class Draft:
    """A report of the server, and where it belongs.

    answer    : of the server
    images    : headers of the images of the study that were read; none if they were not DICOM
    options   : generation options of the request
    uid       : SOP Instance UID
    replaces  : kind of document, see bridge.dicom.identity -> stored documents that this draft's replaces, by their SOP
                Instance UIDs -> the series of each; several after studies were merged, none for a first draft
    place     : its number among the study's drafts, from 1
    withdrawn : whether the text only says why there is no draft; `images` then say whose study it is
    prior     : header of an image of an earlier study of the patient that was read with `images`, or None
    written   : when the draft was stored
    """

    answer: Mapping[str, Any]
    images: Sequence[Dataset]
    options: Mapping[str, Any]
    uid: str = ""
    replaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    place: int = 1
    withdrawn: bool = False
    prior: Dataset | None = None
    written: datetime.datetime = field(default_factory=lambda: datetime.datetime.now().astimezone())

    @property
    def study_uid(self) -> str:
        """The study of the draft."""
        return str(self.images[0].StudyInstanceUID)

    @property
    def header(self) -> Dataset:
        """The header that patient and study are taken from."""
        return self.images[0] if self.images else Dataset()

    @property
    def evidence(self) -> list[Dataset]:
        """The headers of all images that were read."""
        return [*self.images, *([] if self.prior is None else [self.prior])]

    def evidence_of(self, section: str) -> list[Dataset]:
        """The headers of the images that a section is about."""
        return [image for image in self.evidence if image is self.prior or section != COMPARISON]

    @property
    def use(self) -> str:
        """What the license of the model allows."""
        return plain(str(self.answer["model"].get("use", NOT_STATED)))

    def sections(self) -> list[tuple[str, str]]:
        """Return (section, text), first what the images were compared with; a report without sections is findings."""
        parts = [(name, plain(self.answer["sections"].get(name) or "")) for name in SECTIONS]
        found = [(name, text) for name, text in parts if text]
        found = found or [("findings", plain(self.answer["report"]) or "(no text)")]
        if self.prior is None:
            return found
        date = str(self.prior.StudyDate)
        when = f"{date[:4]}-{date[4:6]}-{date[6:]}"
        return [
            (COMPARISON, f"Chest radiograph of {when}, read by the software with the images of this study."),
            *found,
        ]

    def doubts(self) -> str:
        """Return the sentences that someone should look at first, a line each; "" if there are none."""
        doubted = [one for one in self.answer.get("sentences", ()) if one["confirm"]]
        lines = [f"- {' '.join(plain(one['text']).split())} (confidence {one['confidence']:.2f})" for one in doubted]
        return "\n".join([CONFIRM, *lines]) if lines else ""

    def places(self) -> str:
        """Return where the phrases of the report are in the images, a line for each box; "" if there are none."""
        found = [one for one in self.answer.get("regions", ()) if one["box"] is not None]
        lines = [f"- {_shorten(plain(one['text']))}: {_corners(one['box'])}, image {one['image']}" for one in found]
        return "\n".join([PLACES, *lines]) if lines else ""

    def remarks(self) -> list[tuple[str, str]]:
        """Return what is said about the text, each with its heading: what to confirm, and where it is in the images."""
        return [(name, text) for name, text in (("To confirm", self.doubts()), ("Places", self.places())) if text]


def _shorten(phrase: str) -> str:
    """Return a phrase in one line; the report has all of it."""
    line = " ".join(phrase.split())
    return line if len(line) <= LONGEST_PHRASE else f"{line[:LONGEST_PHRASE]}..."


def _corners(box: Sequence[float]) -> str:
    left, top, right, bottom = (round(side) for side in box)
    return f"({left}, {top}) to ({right}, {bottom})"


def plain(text: str) -> str:
    """Return a text without control characters and lone surrogates, and without white space at its ends."""
    return text.translate(CONTROL).encode(errors="replace").decode().strip()
