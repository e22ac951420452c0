"""One study, from its headers to the stored draft."""

import datetime
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pydicom.dataset import Dataset

from bridge.configuration.settings import Settings
from bridge.dicom.draft_chain import DraftChain, split_uids
from bridge.dicom.identity import Identifiers, SiteKey, document_uid, series_uid
from bridge.dicom.study_state import StudyState
from bridge.documents.draft import Draft
from bridge.documents.withdrawal import explain_withdrawal
from bridge.documents.writers import WRITERS, chosen_kinds
from bridge.failures import Outage
from bridge.journal import log
from bridge.peers.interfaces import Destination, DraftReceiver, PriorSource, StudySource
from bridge.reading import StudyReader, StudyReading, header_of
from bridge.store.agreement import SignedStore
from bridge.store.queue import DueStudy, Queue

MAX_KEPT = 1000
"""Answers kept for studies whose draft could not be delivered yet."""


@dataclass(frozen=True)
class StudyOutcome:
    """What became of a study: one of the queue's OUTCOMES, a word that says why, and the state that it is about."""

    name: str
    reason: str
    fingerprint: str


@dataclass(frozen=True)
class KeptReading:
    """What the server says of a study, kept until it is delivered: an outage of a receiver costs nothing.

    delivered : (draft, number of the output) of what was sent
    """

    fingerprint: str
    reading: StudyReading
    delivered: set[tuple[str, int]] = field(default_factory=set)


class Changed(Exception):
    """The study changed while its report was written; the report is thrown away."""


class Drafter:
    """Writes and stores the draft of one study after another; used by several threads."""

    def __init__(
        self,
        settings: Settings,
        queue: Queue,
        key: SiteKey,
        archive: StudySource,
        destination: Destination,
        *,
        outputs: Sequence[DraftReceiver] = (),
        agreement: SignedStore | None = None,
        priors: PriorSource | None = None,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._key = key
        self._archive = archive
        self._destination = destination
        self._outputs = outputs
        self._agreement = agreement
        self._reader = StudyReader(settings.server, key, archive, priors)
        self._kinds = chosen_kinds(settings.report)
        self._readings: OrderedDict[str, KeptReading] = OrderedDict()
        self._lock = threading.Lock()

    def draft(self, job: DueStudy) -> StudyOutcome | None:
        """Do what a study needs in its present state; None if its outcome is already about this state.

        Raises Outage, StudyFailure, Changed.
        """
        started = time.monotonic()
        study = self._archive.study(job.study)
        fingerprint = study.fingerprint(self._key)
        if fingerprint == job.fingerprint and len(self._chain(study).heads) < 2:
            return None
        candidates = study.candidates()
        if not candidates:
            reason = study.why_skipped()
            self._withdraw(study, fingerprint, reason)
            return StudyOutcome("skipped", reason, fingerprint)
        kept = self._read(study, fingerprint, candidates)
        reading = kept.reading
        if self._archive.study(job.study).fingerprint(self._key) != fingerprint:
            raise Changed
        if reading.answer is None:
            self._withdraw(study, fingerprint, "refused")
            self._forget(study.uid)
            return StudyOutcome("refused", reading.refused, fingerprint)
        draft = Draft(reading.answer, reading.images, self._options, prior=reading.prior)
        self._deliver(study, fingerprint, draft, kept.delivered)
        self._forget(study.uid)
        log(
            "draft_stored",
            study=self._key.pseudonym(study.uid),
            seconds=round(time.monotonic() - started, 3),
            images=len(draft.evidence),
            **({"prior": reading.outcome} if reading.outcome else {}),
            weights=reading.answer["model"]["sha256"][:16],
            warnings=len(reading.answer["warnings"]),
        )
        return StudyOutcome("reported", "", fingerprint)

    def give_up(self, job: DueStudy) -> None:
        """Withdraw the draft of a study that changed and whose new state could not be reported.

        Raises Outage, StudyFailure.
        """
        self._forget(job.study)
        study = self._archive.study(job.study)
        fingerprint = study.fingerprint(self._key)
        states = {self._queue.state_of_draft(head) for head in self._chain(study).heads}
        if states != {fingerprint}:
            self._withdraw(study, fingerprint, "dead")

    @property
    def _options(self) -> dict[str, object]:
        return self._settings.server.options

    def _read(self, study: StudyState, fingerprint: str, candidates: list[Dataset]) -> KeptReading:
        """Return what the server says of a study's images; it is asked once for each state.

        Raises Outage, StudyFailure.
        """
        with self._lock:
            kept = self._readings.get(study.uid)
        if kept is None or kept.fingerprint != fingerprint:
            kept = KeptReading(fingerprint, self._reader.read(study, candidates))
            with self._lock:
                self._readings[study.uid] = kept
                while len(self._readings) > MAX_KEPT:
                    self._readings.popitem(last=False)
        return kept

    def _forget(self, uid: str) -> None:
        with self._lock:
            self._readings.pop(uid, None)

    def _chain(self, study: StudyState) -> DraftChain:
        """Return the drafts in the PACS and in the queue."""
        recorded = {document_uid(*one): series_uid(study.uid, one[1]) for one in self._queue.documents(study.uid)}
        return DraftChain({**study.drafts, **self._queue.drafts(study.uid)}, recorded | study.documents)

    def _withdraw(self, study: StudyState, fingerprint: str, why: str) -> None:
        """Replace the study's current draft, if it has one, by a document that says that there is none.

        A study that is no longer in the PACS is left alone: a document would bring it back.
        """
        heads = self._chain(study).heads
        sources = study.images or [study.own[head] for head in heads if head in study.own]
        if heads and sources:
            draft = Draft(explain_withdrawal(why), [self._header_of_file(sources[0])], {}, withdrawn=True)
            self._deliver(study, fingerprint, draft, set())

    def _header_of_file(self, header: Dataset) -> Dataset:
        """Return the header as it is in the file, or as the archive shows it if the file is damaged.

        Raises Outage.
        """
        try:
            return header_of(self._archive.image(header))
        except Outage:
            raise
        except Exception:  # noqa: BLE001 - whatever a damaged file raises; it may be why the study is dead
            return header

    def _deliver(self, study: StudyState, fingerprint: str, draft: Draft, delivered: set[tuple[str, int]]) -> None:
        """Store a draft, unless the PACS has it, and send it to the other outputs.

        It replaces the heads of the chain of drafts in the PACS and in the queue. If the head is what would be written
        now, an earlier process stored it and was killed before it could say so.
        """
        chain = self._chain(study)
        heads = chain.heads
        options = json.dumps(draft.options, sort_keys=True)
        images = [] if draft.withdrawn else [str(header.SOPInstanceUID) for header in draft.evidence]
        weights = draft.answer["model"]["sha256"]
        replaced = chain.drafts[heads[0]] if len(heads) == 1 else ""
        uid = self._key.draft_uid(fingerprint, images, options, weights, replaced)
        if heads != [uid]:
            replaced = "\\".join(heads)
            uid = self._key.draft_uid(fingerprint, images, options, weights, replaced)
        named = {kind: chain.find_documents(split_uids(replaced), kind) for kind in self._kinds} if replaced else {}
        draft = replace(draft, uid=uid, replaces=named, place=len(set(chain.drafts) - {uid}) + 1)
        stored = 0.0
        for kind in self._kinds:
            if document_uid(uid, kind) not in study.documents:
                self._destination.store(WRITERS[kind](draft, self._settings.report))
            stored = self._queue.add_document(study.uid, uid, kind, replaced, fingerprint)
        self._compare_later(draft)
        draft = replace(draft, written=datetime.datetime.fromtimestamp(stored).astimezone())
        for number, output in enumerate(self._outputs):
            if (uid, number) not in delivered:
                output.send(draft)
                delivered.add((uid, number))

    def _compare_later(self, draft: Draft) -> None:
        """Note what the current draft says, for when the study's report is signed."""
        if self._agreement is None:
            return
        known = Identifiers.of(draft.header)
        if draft.withdrawn:
            self._agreement.withdraw_draft(known)
        else:
            self._agreement.add_draft(known, draft.answer["model"]["sha256"], draft.answer["report"])
