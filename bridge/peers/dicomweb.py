"""A PACS by DICOMweb (PS3.18): QIDO-RS to find studies, WADO-RS to fetch them, STOW-RS to store drafts."""

import contextlib
import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from bridge.configuration.settings import DicomWebSettings
from bridge.dicom.json_header import Row, read_header, uid_of
from bridge.dicom.study_state import UIDS, StudyState, is_same_image
from bridge.failures import Outage, StudyFailure
from bridge.peers.sessions import http_failure, open_pacs_session

PAGE = 500
PATH_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""UIDs of real equipment have leading zeros and other faults."""
STUDY_UID, INSTANCE_UID = "0020000D", "00080018"
ANY_SYNTAX = (("application/dicom", "*"),)
SEEN = ("00100010", "00100020", "00100021", "00100030", "00100040", "00080050", "00080090", "00201208", "00080061")
"""Patient, accession number, referring physician, number of instances, modalities: a poll compares them."""
WHOSE = ("00080020", "00080030", "00100020")
"""Date, time, Patient ID."""
RADIOGRAPHY = ("CR", "DX")


class DicomWebArchive:
    """Fetches studies and stores drafts. Every method raises Outage or StudyFailure, without the library's texts."""

    def __init__(self, settings: DicomWebSettings) -> None:
        session = open_pacs_session(settings, settings.url)
        # Their form is checked here.
        self._client = DICOMwebClient(settings.url, session, timeout=settings.timeout_s, permissive_uid=True)
        # The queue retries, and remembers it.
        self._client.set_http_retry_params(retry=False)

    def study(self, uid: str) -> StudyState:
        """Return the present state of a study, which is empty if the PACS does not have it."""
        _check_uids(uid)
        try:
            rows = self._metadata(uid)
        except StudyFailure:
            if self._has(uid):
                raise
            rows = []
        return StudyState.of(uid, [read_header(row) for row in rows])

    def _metadata(self, uid: str) -> list[Row]:
        with _translated("pacs"):
            return _rows(self._client.retrieve_study_metadata(uid))

    def _has(self, uid: str) -> bool:
        """Whether the PACS has a study; a status 404 alone can also mean that `dicomweb.url` is wrong."""
        try:
            with _translated("pacs"):
                rows = _rows(self._client.search_for_studies(search_filters={"StudyInstanceUID": uid}))
        except StudyFailure as error:
            raise Outage(error.reason) from None
        return any(uid_of(row, STUDY_UID) == uid for row in rows)

    def image(self, header: Dataset) -> Dataset:
        """Return an image with its pixels, in the transfer syntax in which it is stored.

        Raises StudyFailure, also if the PACS sends another image than the one that was asked for.
        """
        uids = [str(header.get(keyword) or "") for keyword in UIDS]
        _check_uids(*uids)
        try:
            with _translated("pacs"):
                image = self._client.retrieve_instance(*uids, media_types=ANY_SYNTAX)
        except (ValueError, LookupError, EOFError, OSError, InvalidDicomError):
            # No part, several, one that is cut off, or none that is DICOM.
            raise StudyFailure("pacs_image_unreadable") from None
        if not is_same_image(header, image):
            raise StudyFailure("pacs_sent_another_image")
        return image

    def store(self, document: Dataset) -> None:
        """Store a draft. A PACS that has it already answers success, or 409.

        Raises Outage if the PACS neither says that it has stored the draft (PS3.18 I.2.2) nor shows it.
        """
        uid = str(document.SOPInstanceUID)
        try:
            with _translated("pacs"):
                answer = self._send(document)
            if answer.get("FailedSOPSequence"):
                raise StudyFailure("pacs_refused_the_draft")
        except StudyFailure:
            if not self._shows(document.StudyInstanceUID, uid):
                raise
            return
        stored = {str(item.get("ReferencedSOPInstanceUID")) for item in answer.get("ReferencedSOPSequence") or ()}
        if uid not in stored and not self._shows(document.StudyInstanceUID, uid):
            raise Outage("pacs_does_not_show_the_draft")

    def _send(self, document: Dataset) -> Dataset:
        """Send a draft; the answer, which is empty if it cannot be read."""
        try:
            return self._client.store_instances([document])
        except requests.RequestException:
            raise
        except (ValueError, LookupError, SyntaxError):
            # Of XML it is a SyntaxError.
            return Dataset()

    def _shows(self, study: str, instance: str) -> bool:
        """Whether the PACS has an instance of a study."""
        try:
            return any(uid_of(row, INSTANCE_UID) == instance for row in self._metadata(study))
        except StudyFailure:
            return False

    def recent_studies(self, days: int, modality: str) -> Iterator[tuple[str, str]]:
        """Yield (Study Instance UID, what a poll compares) of the studies of the last days."""
        today = datetime.datetime.now().astimezone().date()
        span = f"{today - datetime.timedelta(days=days - 1):%Y%m%d}-{today + datetime.timedelta(days=1):%Y%m%d}"
        for uid, row in self._search(SEEN, {"StudyDate": span, "ModalitiesInStudy": modality}):
            yield uid, repr([row.get(tag, {}).get("Value") for tag in SEEN])

    def studies_of(self, patient: str, until: datetime.date) -> Iterator[Dataset]:
        """Yield patient, date and time of the studies with radiographs under a Patient ID up to a day."""
        for modality in RADIOGRAPHY:
            filters = {"PatientID": patient, "StudyDate": f"-{until:%Y%m%d}", "ModalitiesInStudy": modality}
            yield from (read_header(row) for _, row in self._search(WHOSE, filters))

    def _search(self, fields: Sequence[str], filters: Mapping[str, str]) -> Iterator[tuple[str, Row]]:
        """Yield the Study Instance UID and the row of each study that is found."""
        known: set[str] = set()
        while True:
            with _translated("pacs"):
                rows = _rows(
                    self._client.search_for_studies(
                        fields=list(fields), search_filters=dict(filters), limit=PAGE, offset=len(known)
                    )
                )
            # Some archives ignore the offset and send the first page for ever.
            new = {uid: row for row in rows if (uid := uid_of(row, STUDY_UID)) and uid not in known}
            if not new:
                return
            yield from new.items()
            known |= set(new)


def _check_uids(*uids: str) -> None:
    """Raise StudyFailure for a UID that would change the path of a request."""
    if not all(PATH_SEGMENT.fullmatch(uid) for uid in uids):
        raise StudyFailure("uid_unusable")


def _rows(answer: Any) -> list[Row]:
    """Return the data sets of an answer, in DICOM's JSON. Raises TypeError for JSON of another form."""
    for row in answer:
        if not all(isinstance(element, dict) for element in row.values()):
            raise TypeError
    return list(answer)


@contextlib.contextmanager
def _translated(side: str) -> Iterator[None]:
    """Turn what the HTTP library raises into Outage and StudyFailure; its texts quote addresses with UIDs."""
    try:
        yield
    except requests.HTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        raise http_failure(side, code) from None
    except requests.RequestException as error:
        raise Outage(f"{side}_{type(error).__name__}") from None
    except (TypeError, AttributeError, RecursionError):
        # JSON of another form, such as the apology of a proxy: not about this study.
        raise Outage(f"{side}_answer_unreadable") from None
