"""Where studies come from and where drafts go, as the work on a study sees it."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from pydicom.dataset import Dataset

from bridge.dicom.study_state import StudyState
from bridge.documents.draft import Draft
from bridge.failures import StudyFailure
from bridge.store.spool import Spool


class StudySource(Protocol):
    """Where studies are read."""

    def study(self, uid: str) -> StudyState:
        """Return the present state of a study."""

    def image(self, header: Dataset) -> Dataset:
        """Return an image with its pixels."""


class PriorSource(StudySource, Protocol):
    """Where earlier studies of a patient are found."""

    def studies_of(self, patient: str, until: datetime.date) -> Iterator[Dataset]:
        """Yield what is known of the studies with radiographs under a Patient ID up to a day."""


class Destination(Protocol):
    """Where the documents of drafts are stored."""

    def store(self, document: Dataset) -> None:
        """Store a document; storing it twice is the same as once."""


class DraftReceiver(Protocol):
    """Where drafts go besides."""

    def send(self, draft: Draft) -> None:
        """Send a draft; a receiver can tell that it got the same one twice."""


@dataclass(frozen=True)
class StudySources:
    """The PACS, and the spool for what arrived by C-STORE and the PACS does not have yet.

    follows : whether events come from the PACS; else it may be one that only takes drafts, and the spool comes first
    """

    spool: Spool | None
    pacs: StudySource | None
    follows: bool = True

    def study(self, uid: str) -> StudyState:
        """Return the present state of a study.

        Raises Outage, StudyFailure.
        """
        study = StudyState.of(uid, ())
        for source in self._sources(uid):
            study = source.study(uid)
            if study.images or study.own:
                break
        return study

    def image(self, header: Dataset) -> Dataset:
        """Return an image with its pixels.

        Raises Outage, StudyFailure.
        """
        failure = StudyFailure("image_removed")
        for source in self._sources(str(header.StudyInstanceUID)):
            try:
                return source.image(header)
            except StudyFailure as error:
                failure = error
        raise failure

    def _sources(self, uid: str) -> list[StudySource]:
        """Return where a study may be: first the PACS, which has it as it was corrected, then the spool, as it came."""
        spools: list[StudySource] = [self.spool] if self.spool is not None and self.spool.has(uid) else []
        if self.pacs is None or (spools and not self.follows):
            return spools
        return [self.pacs, *spools]
