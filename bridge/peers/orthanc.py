"""Orthanc's change feed (its REST API, not DICOM): every study that has arrived, whatever its date.

QIDO-RS has no time of arrival. A poll by Study Date misses a study without a date, and an old one that arrives today.
"""

from collections.abc import Iterator
from typing import Any

import requests

from bridge.configuration.settings import DicomWebSettings
from bridge.failures import Outage
from bridge.peers.sessions import http_failure, open_pacs_session

PAGE = 100
ARRIVED, STABLE = "NewStudy", "StableStudy"
"""A study has begun to arrive; nothing has been added to it for StableAge seconds. Orthanc forgets the latter to come
when it stops."""


class ChangeFeed:
    """Reads the feed from a place in it on. Every method raises Outage.

    url : of Orthanc's REST API
    """

    def __init__(self, url: str, pacs: DicomWebSettings) -> None:
        self._url = url.rstrip("/")
        self._session = open_pacs_session(pacs, url)
        self._timeout = pacs.timeout_s

    def end(self) -> int:
        """Return the place after the last change."""
        return self._page("last")[1]

    def since(self, place: int) -> tuple[list[tuple[str, str, frozenset[str]]], int, bool]:
        """Return a page of changes, the place after it, and whether it is the end of the feed.

        Returns for each change its kind, the Study Instance UID and the modalities of the study; studies that are no
        longer there are left out.
        """
        changes, last, done = self._page(f"since={place}&limit={PAGE}")
        wanted = dict.fromkeys(
            (str(change.get("ChangeType")), str(change.get("ID")))
            for change in changes
            if change.get("ChangeType") in (ARRIVED, STABLE)
        )
        return [(kind, *study) for kind, name in wanted for study in self._study(name)], last, done

    def _page(self, query: str) -> tuple[list[dict[str, Any]], int, bool]:
        match self._get(f"/changes?{query}"):
            case {"Changes": [*changes], "Last": int(last), **more} if all(isinstance(one, dict) for one in changes):
                return changes, last, more.get("Done") is not False or not changes
        raise Outage("pacs_changes_unreadable")

    def _study(self, name: str) -> Iterator[tuple[str, frozenset[str]]]:
        study, series = self._get(f"/studies/{name}"), self._get(f"/studies/{name}/series")
        match study, series:
            case {"MainDicomTags": {"StudyInstanceUID": str(uid)}}, [*rows]:
                tags = [row.get("MainDicomTags", {}) for row in rows if isinstance(row, dict)]
                yield uid, frozenset(str(one.get("Modality", "")) for one in tags)

    def _get(self, path: str) -> Any:
        """Return the answer, or None for what is no longer there."""
        try:
            answer = self._session.get(self._url + path, timeout=self._timeout)
            if answer.status_code == 404 and path.startswith("/studies/"):
                return None
            if not answer.ok:
                raise Outage(http_failure("pacs_changes", answer.status_code).reason)
            return answer.json()
        except requests.RequestException as error:
            raise Outage(f"pacs_changes_{type(error).__name__}") from None
