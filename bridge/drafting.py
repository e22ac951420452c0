"""One study, from its headers to the stored draft."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydicom.dataset import Dataset

from bridge.deidentify import write_deidentified
from bridge.documents.draft import Draft
from bridge.documents.writers import WRITERS, chosen_kinds
from bridge.failures import Failure, Outage
from bridge.identity import SiteKey, document_uid
from bridge.journal import log
from bridge.queue import Job, Queue
from bridge.report_client import ReportClient, is_refusal
from bridge.settings import Settings
from bridge.spool import Spool
from bridge.study import Study, head_of
from prelim_client.answers import Answer, ReportError


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


@dataclass(frozen=True)
class Outcome:
    """What became of a study: one of the queue's OUTCOMES, a word that says why, and the state that it is about."""

    name: str
    reason: str
    fingerprint: str


class Changed(Exception):
    """The study changed while its report was written; the report is thrown away."""


class Drafter:
    """Writes and stores the draft of one study after another; used by several threads."""

    def __init__(
        self,
        settings: Settings,
        queue: Queue,
        key: SiteKey,
        archive: Archive,
        destination: Destination,
        *,
        outputs: Sequence[Output] = (),
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._key = key
        self._archive = archive
        self._destination = destination
        self._outputs = outputs
        self._client = ReportClient(settings.server)
        self._kinds = chosen_kinds(settings.report)

    def draft(self, job: Job) -> Outcome | None:
        """Do what a study needs in its present state; None if its outcome is already about this state.

        Raises Outage, Failure, Changed.
        """
        started = time.monotonic()
        study = self._archive.study(job.study)
        fingerprint = study.fingerprint(self._key)
        if fingerprint == job.fingerprint:
            return None
        if not study.images:
            return Outcome("skipped", "no_radiograph", fingerprint)
        candidates = study.candidates()
        if not candidates:
            return Outcome("skipped", "no_frontal_image", fingerprint)
        answer, read, refused = self._ask(candidates)
        if answer is None:
            return Outcome("refused", refused, fingerprint)
        if self._archive.study(job.study).fingerprint(self._key) != fingerprint:
            raise Changed
        self._store(study, fingerprint, answer, read)
        log(
            "draft_stored",
            study=self._key.pseudonym(study.uid),
            seconds=round(time.monotonic() - started, 3),
            images=len(read),
            weights=answer["model"]["sha256"][:16],
            warnings=len(answer["warnings"]),
        )
        return Outcome("reported", "", fingerprint)

    def _ask(self, candidates: list[Dataset]) -> tuple[Answer | None, list[Dataset], str]:
        """Return the server's answer with the images that it read; without an answer, why it refused the first of them.

        An image that is refused is left out, and the next is tried: whether a picture without a view is a chest, only
        the server decides.
        """
        refusals: list[str] = []
        wanted = self._settings.server.images
        remaining = list(candidates)
        while remaining:
            read = remaining[:wanted]
            try:
                return self._request(read), read, ""
            except ReportError as error:
                if not is_refusal(error):
                    raise _translate(error) from None
                refusals.append(f"{error.code}_{_refusal_name(error)}")
            # Which of several images was refused is not in the answer: go on with one at a time.
            if len(read) > 1:
                wanted = 1
            else:
                remaining = remaining[1:]
        return None, [], refusals[0]

    def _request(self, headers: list[Dataset]) -> Answer:
        """Request a report on images, sent as DICOM with the header cut to the allow-list.

        Raises ReportError, Outage.
        """
        files = [write_deidentified(self._archive.image(header), self._key) for header in headers]
        return self._client.report(files, self._settings.server.options)

    def _store(self, study: Study, fingerprint: str, answer: Answer, read: list[Dataset]) -> None:
        """Store the draft, unless the PACS has it, and send it to the other outputs.

        The draft before this one is the head of the chain of drafts in the PACS and in the queue. If that head is what
        would be written now, an earlier process stored it and was killed before it could say so.
        """
        drafts = {**self._queue.drafts(study.uid), **study.drafts}
        options = json.dumps(self._settings.server.options, sort_keys=True)
        images = [str(header.SOPInstanceUID) for header in read]
        weights = answer["model"]["sha256"]
        head = head_of(drafts)
        replaced = drafts.get(head, "")
        uid = self._key.draft_uid(fingerprint, images, options, weights, replaced)
        if uid != head:
            replaced = head
            uid = self._key.draft_uid(fingerprint, images, options, weights, replaced)
        place = len(set(drafts) - {uid}) + 1
        draft = Draft(answer, read, self._settings.server.options, uid, replaced, place)
        present = {*study.drafts, *study.companions}
        for kind in self._kinds:
            if document_uid(uid, kind) not in present:
                self._destination.store(WRITERS[kind](draft, self._settings.report))
        for output in self._outputs:
            output.send(draft)
        self._queue.add_draft(study.uid, uid, replaced)


def _translate(error: ReportError) -> Outage | Failure:
    """Return what an error of the server that is not about the image means."""
    if error.code in (401, 403, 404, 405, 408, 429, 502, 503, 504) or error.type == "InvalidOption":
        # The last is about server.options of the configuration, not about an image.
        return Outage(f"server_{error.code}")
    return Failure(f"server_{error.code}")


def _refusal_name(error: ReportError) -> str:
    """Return the name at the head of a refusal's message ("body_part: ..."), or else its type."""
    name, colon, _ = error.message.partition(":")
    return name if colon and name.isidentifier() and name.isascii() and len(name) < 40 else error.type[:40]
