"""Where studies come from and where drafts go, as the work on a study sees it."""

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
    """The spool for studies that arrived by C-STORE, the PACS for the others."""

    spool: Spool | None
    pacs: StudySource | None

    def study(self, uid: str) -> StudyState:
        """Return the present state of a study.

        Raises Outage, StudyFailure.
        """
        return self._of(uid).study(uid)

    def image(self, header: Dataset) -> Dataset:
        """Return an image with its pixels.

        Raises Outage, StudyFailure.
        """
        return self._of(str(header.StudyInstanceUID)).image(header)

    def _of(self, uid: str) -> StudySource:
        if self.spool is not None and (self.pacs is None or self.spool.has(uid)):
            return self.spool
        if self.pacs is None:
            raise StudyFailure("no_archive")
        return self.pacs
