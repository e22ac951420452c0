"""Looks for studies that no hook has announced: by QIDO-RS, and in Orthanc's change feed."""

from bridge.configuration.settings import PollSettings
from bridge.failures import Outage, StudyFailure
from bridge.journal import log
from bridge.peers.dicomweb import DicomWebArchive
from bridge.peers.orthanc import STABLE, ChangeFeed
from bridge.store.queue import Queue

PLACE = "orthanc_changes"


class Poll:
    """One look at the PACS each time it is called.

    stable_s : seconds after which a study that was found is worked on
    feed     : of Orthanc, or None
    """

    def __init__(
        self, settings: PollSettings, stable_s: float, queue: Queue, archive: DicomWebArchive, feed: ChangeFeed | None
    ) -> None:
        self._settings = settings
        self._stable_s = stable_s
        self._queue = queue
        self._archive = archive
        self._feed = feed

    def __call__(self) -> None:
        """Notify the queue of new and changed studies.

        Raises NotRecorded.
        """
        for look in (self._look_at_dates, self._follow_changes):
            try:
                look()
            except (Outage, StudyFailure) as error:
                log("poll_failed", reason=error.reason)

    def _look_at_dates(self) -> None:
        """Look at the studies of the last days. Raises Outage, StudyFailure."""
        modalities = self._settings.modalities
        # Of a study whose images were deleted only its draft is left.
        for modality in (*modalities, "SR"):
            for study, seen in self._archive.recent_studies(self._settings.days, modality):
                if modality in modalities or self._queue.drafts(study):
                    self._queue.see(study, seen, self._stable_s)

    def _follow_changes(self) -> None:
        """Read the feed from where the last look ended; the first begins at its end. Raises Outage.

        A study that has begun to arrive waits for the next look: by then the feed says that it is stable, or Orthanc
        was stopped and never will.
        """
        if self._feed is None:
            return
        place, end = self._queue.recall(PLACE), self._feed.end()
        # A feed that ends before that place is another one: the PACS has got a new database.
        done = place is None or place > end
        if place is None or done:
            self._queue.remember(PLACE, end)
            return
        while not done:
            changes, place, done = self._feed.since(place)
            for kind, study, modalities in changes:
                if modalities & set(self._settings.modalities) or self._queue.drafts(study):
                    self._queue.notify(study, self._stable_s if kind == STABLE else self._settings.every_s)
            self._queue.remember(PLACE, place)
