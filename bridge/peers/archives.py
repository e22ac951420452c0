"""Where studies come from and where drafts go, as the work on a study sees it."""

from dataclasses import dataclass
from typing import Protocol

from pydicom.dataset import Dataset

from bridge.dicom.study import Study
from bridge.documents.draft import Draft
from bridge.failures import Failure
from bridge.store.spool import Spool


class Archive(Protocol):
    """Where studies are read."""

    def study(self, uid: str) -> Study:
        """Return the present state of a study."""

    def image(self, header: Dataset) -> Dataset:
        """Return an image with its pixels."""


class Destination(Protocol):
    """Where the documents of drafts are stored."""

    def store(self, document: Dataset) -> None:
        """Store a document; storing it twice is the same as once."""


class Output(Protocol):
    """Where drafts go besides."""

    def send(self, draft: Draft) -> None:
        """Send a draft; a receiver can tell that it got the same one twice."""


@dataclass(frozen=True)
class Archives:
    """The spool for studies that arrived by C-STORE, the PACS for the others."""

    spool: Spool | None
    pacs: Archive | None

    def study(self, uid: str) -> Study:
        """Return the present state of a study.

        Raises Outage, Failure.
        """
        return self._of(uid).study(uid)

    def image(self, header: Dataset) -> Dataset:
        """Return an image with its pixels.

        Raises Outage, Failure.
        """
        return self._of(str(header.StudyInstanceUID)).image(header)

    def _of(self, uid: str) -> Archive:
        if self.spool is not None and (self.pacs is None or self.spool.has(uid)):
            return self.spool
        if self.pacs is None:
            raise Failure("no_archive")
        return self.pacs
