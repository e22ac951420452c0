"""Studies made for tests, and a PACS in memory that behaves as a DICOMweb archive does."""

import datetime
import time
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from bridge.dicom.study_state import StudyState
from bridge.failures import Outage, StudyFailure
from tests.dicom_files import dataset, encode, phantom

STUDY = "1.2.826.0.1.3680043.9.7777.1"


def radiograph(number: int = 1, study: str = STUDY, **header: Any) -> bytes:
    """Return a DICOM file, the image with this number of its study."""
    identity: dict[str, Any] = {
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.1",
        "SOPInstanceUID": f"{study}.1.{number}",
        "StudyDate": time.strftime("%Y%m%d"),
        "StudyTime": "101500",
        "StudyID": "7",
        "PatientSex": "F",
        "ReferringPhysicianName": "Doe^John",
    }
    made = dataset(phantom() + number % 7, **(identity | header))
    return encode(made)


def predecessors(document: Dataset) -> list[tuple[str, str, str]]:
    """Return study, series and SOP Instance UID of the documents that a document replaces."""
    return [
        (str(study.StudyInstanceUID), str(series.SeriesInstanceUID), str(replaced.ReferencedSOPInstanceUID))
        for study in document.get("PredecessorDocumentsSequence") or ()
        for series in study.ReferencedSeriesSequence
        for replaced in series.ReferencedSOPSequence
    ]


class MemoryPacs:
    """Archive and destination in one; `fail` makes the next calls raise."""

    def __init__(self, *files: bytes) -> None:
        self.instances: dict[str, Dataset] = {}
        self.fail: list[Exception] = []
        self.stored: list[str] = []
        self.searched: list[str] = []
        for file in files:
            self.add(file)

    def add(self, file: bytes) -> None:
        """Receive an image."""
        made = dcmread(BytesIO(file))
        self.instances[str(made.SOPInstanceUID)] = made

    def study(self, uid: str) -> StudyState:
        """Return the present state of a study."""
        self._maybe_fail()
        return StudyState.of(uid, [made for made in self.instances.values() if made.StudyInstanceUID == uid])

    def image(self, header: Dataset) -> Dataset:
        """Return an image with its pixels."""
        return self.instances[str(header.SOPInstanceUID)]

    def studies_of(self, patient: str, until: datetime.date) -> Iterator[Dataset]:
        """Yield a row for each radiograph under a Patient ID; as some PACS do, also for what was not asked for."""
        self._maybe_fail()
        self.searched.append(patient)
        yield from self.instances.values()

    def store(self, document: Dataset) -> None:
        """Keep a document, all of whose predecessors were here; the first of two with one UID stays."""
        self._maybe_fail()
        assert {uid for *_, uid in predecessors(document)} <= {*self.instances, *self.stored}
        file = BytesIO()
        document.save_as(file, enforce_file_format=True)
        self.stored.append(str(document.SOPInstanceUID))
        self.instances.setdefault(str(document.SOPInstanceUID), dcmread(BytesIO(file.getvalue())))

    def reports(self) -> list[Dataset]:
        """Return the drafts in it, in the order in which they came."""
        return [made for made in self.instances.values() if made.get("Modality") == "SR"]

    def _maybe_fail(self) -> None:
        if self.fail:
            raise self.fail.pop(0)


OUTAGE = Outage("pacs_ConnectionError")
FAILURE = StudyFailure("pacs_409")
