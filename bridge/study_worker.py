"""Takes due studies from the queue and records what became of them, failures included."""

import time
from collections.abc import Callable

from bridge.configuration.settings import Settings
from bridge.dicom.identity import SiteKey
from bridge.drafting import Changed, Drafter
from bridge.failures import Outage, StudyFailure
from bridge.journal import describe_failure, log
from bridge.store.queue import DueStudy, Queue
from bridge.store.schema import NotRecorded


class StudyWorker:
    """Does one job a step; several threads may share it.

    clock : of the queue, seconds since 1970
    """

    def __init__(
        self,
        settings: Settings,
        queue: Queue,
        key: SiteKey,
        drafter: Drafter,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings.queue
        self._enabled = settings.enabled
        self._queue = queue
        self._key = key
        self._drafter = drafter
        self._clock = clock

    def step(self) -> bool:
        """Do one job; False if there is none, or work is switched off.

        Raises NotRecorded: the job is still in the queue.
        """
        if not self._enabled or self._queue.paused:
            return False
        job = self._queue.take()
        if job is None:
            return False
        try:
            self._do(job)
        finally:
            self._queue.release(job)
        return True

    def _do(self, job: DueStudy) -> None:
        study = self._key.pseudonym(job.study)
        try:
            outcome = self._drafter.draft(job)
        except Changed:
            self._queue.notify(job.study, self._settings.stable_s)
            log("changed", study=study)
        except Outage as error:
            self._fail(job, error.reason, counted=False)
        except StudyFailure as error:
            self._fail(job, error.reason, counted=True)
        except NotRecorded:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this study; the next one may be fine
            described = describe_failure(error)
            log("unexpected", study=study, **described)
            self._fail(job, described["reason"], counted=True)
        else:
            if outcome is None:
                self._queue.finish_unchanged(job)
            else:
                self._queue.finish(job, outcome.name, outcome.reason, outcome.fingerprint)
            log("finished", study=study, outcome=outcome.name if outcome else "unchanged")

    def _fail(self, job: DueStudy, reason: str, *, counted: bool) -> None:
        """Retry with exponential back-off, or give up: after too many failures of this study, or too long an outage."""
        study = self._key.pseudonym(job.study)
        attempts = job.attempts + int(counted)
        hours = 0.0 if job.failing_since is None else (self._clock() - job.failing_since) / 3600
        if attempts >= self._settings.max_attempts or hours >= self._settings.give_up_hours:
            try:
                self._drafter.give_up(job)
            except NotRecorded:
                raise
            except Exception as error:  # noqa: BLE001 - the study is dead already, for the reason that came first
                log("not_withdrawn", study=study, **describe_failure(error))
            # About no state: the next event is worked on, also if the study is then as it was before.
            self._queue.finish(job, "dead", reason, "")
            log("dead", study=study, reason=reason, attempts=attempts)
            return
        wait = min(self._settings.first_retry_s * 2 ** min(job.tries, 20), self._settings.longest_retry_s)
        self._queue.retry(job, wait, reason, counted=counted)
        log("retry", study=study, reason=reason, attempts=attempts, retry_s=wait)
