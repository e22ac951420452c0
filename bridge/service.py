"""The running bridge: threads that draft, poll, listen and clean up, until it is told to stop."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from bridge.configuration.settings import Settings
from bridge.dicom.identity import SiteKey
from bridge.drafting import Drafter
from bridge.endpoints.draft_route import listen_for_drafts
from bridge.endpoints.hook import listen_to_hook
from bridge.endpoints.signed_reports import SignedReports, listen_for_reports
from bridge.journal import describe_failure, log
from bridge.peers.dicomweb import DicomWebArchive
from bridge.peers.dimse import StoreClient, receive_images
from bridge.peers.fhir import FhirClient
from bridge.peers.hl7v2 import Hl7Client
from bridge.peers.interfaces import DraftReceiver, StudySources
from bridge.peers.orthanc import ChangeFeed
from bridge.polling import Poll
from bridge.store.agreement import SignedStore
from bridge.store.queue import Queue, sole_process
from bridge.store.schema import NotRecorded
from bridge.store.spool import Spool
from bridge.study_worker import StudyWorker

IDLE_S = 0.2
PURGE_EVERY_S = 3600.0
STOP_S = 20.0
"""Work that takes longer is cut off when the bridge stops: a service manager kills it after a while anyway."""


def serve(settings: Settings, stop: threading.Event) -> None:
    """Run the bridge until `stop` is set; work that takes longer than STOP_S is cut off.

    Raises QueueError if another bridge has the state folder, or its queue cannot be read.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(sole_process(settings.state))
        key = SiteKey.load(settings.state / "site.key")
        waiting = _start_drafting(settings, key, stack, stop) if settings.has_archive else 0
        if settings.drafts is not None:
            stack.enter_context(listen_for_drafts(settings, key))
        log("started", count=waiting)
        stop.wait()
    log("stopped")


def _start_drafting(settings: Settings, key: SiteKey, stack: contextlib.ExitStack, stop: threading.Event) -> int:
    """Start what works on the studies of an archive, until the stack ends it; the number of studies that wait."""
    queue = stack.enter_context(contextlib.closing(Queue(settings.state / "queue.sqlite")))
    pacs = None if settings.dicomweb is None else DicomWebArchive(settings.dicomweb)
    spool = None if settings.store_scp is None else Spool(settings.state / "spool", key)
    destination = pacs if settings.store_scu is None else StoreClient(settings.store_scu)
    assert destination is not None  # noqa: S101 - the settings have one of both
    outputs: list[DraftReceiver] = [] if settings.hl7 is None else [Hl7Client(settings.hl7)]
    outputs += [] if settings.fhir is None else [FhirClient(settings.fhir)]
    sources = StudySources(spool, pacs, follows=settings.poll is not None or settings.hook is not None)
    agreement = _open_agreement(settings, key, stack)
    drafter = Drafter(settings, queue, key, sources, destination, outputs=outputs, agreement=agreement, priors=pacs)
    loops = [_purging(settings, queue, spool, agreement)]
    loops += [StudyWorker(settings, queue, key, drafter).step] * settings.queue.workers
    if pacs is not None and settings.poll is not None:
        loops.append(_every(settings.poll.every_s, _poll(settings, queue, pacs)))
    if settings.hook is not None:
        stack.enter_context(listen_to_hook(settings, queue))
    if spool is not None:
        stack.enter_context(receive_images(settings, queue, spool))
    if settings.signed is not None and agreement is not None:
        reports = SignedReports(settings.signed, agreement, enabled=settings.enabled)
        if settings.signed.folder is not None:
            loops.append(reports.read_folder)
        if settings.signed.port is not None:
            stack.enter_context(listen_for_reports(settings.signed, reports.take))
    stack.enter_context(_running(loops, stop))
    return queue.counts()["waiting"]


@contextlib.contextmanager
def _running(loops: list[Callable[[], bool]], stop: threading.Event) -> Iterator[None]:
    """Run each loop in a thread of its own."""
    threads = [threading.Thread(target=_repeat, args=(loop, stop), daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        end = time.monotonic() + STOP_S
        for thread in threads:
            thread.join(max(end - time.monotonic(), 0))
        unfinished = sum(thread.is_alive() for thread in threads)
        if unfinished:
            # A study whose work is cut off is still in the queue, like after a crash.
            log("stopped_during_work", count=unfinished)


def _repeat(step: Callable[[], bool], stop: threading.Event) -> None:
    """Call a step until told to stop, at once after a step that had work, else after a pause."""
    while not stop.is_set():
        try:
            busy = step()
        except NotRecorded as error:
            log("not_recorded", reason=error.reason)
            busy = stop.wait(5)
        except Exception as error:  # noqa: BLE001 - a loop that ends would silently end the service
            log("unexpected", **describe_failure(error))
            busy = stop.wait(5)
        if not busy:
            stop.wait(IDLE_S)


def _poll(settings: Settings, queue: Queue, pacs: DicomWebArchive) -> Poll:
    assert settings.poll is not None  # noqa: S101 - its caller has looked
    assert settings.dicomweb is not None  # noqa: S101 - it is what `pacs` was made of
    orthanc = settings.poll.orthanc
    feed = None if orthanc is None else ChangeFeed(orthanc, settings.dicomweb)
    return Poll(settings.poll, settings.queue.stable_s, queue, pacs, feed)


def _open_agreement(settings: Settings, key: SiteKey, stack: contextlib.ExitStack) -> SignedStore | None:
    """Return what drafts and signed reports are compared in, if they are."""
    if settings.signed is None:
        return None
    return stack.enter_context(contextlib.closing(SignedStore(settings.state / "agreement.sqlite", key)))


def _purging(
    settings: Settings, queue: Queue, spool: Spool | None, agreement: SignedStore | None
) -> Callable[[], bool]:
    """Return a step that removes what is past its retention, once an hour."""

    def step() -> None:
        removed = queue.purge(settings.queue.retention_days)
        if spool is not None and settings.store_scp is not None:
            waiting = [entry.study for entry in queue.list("waiting")]
            removed += spool.purge(settings.store_scp.keep_hours, waiting)
        if agreement is not None and settings.signed is not None:
            removed += agreement.purge(settings.signed.pair_days, settings.signed.keep_days)
        if removed:
            log("purged", count=removed)

    return _every(PURGE_EVERY_S, step)


def _every(seconds: float, step: Callable[[], None]) -> Callable[[], bool]:
    """Return a step that is done at once and then not before some seconds have passed."""
    due = time.monotonic()

    def timed() -> bool:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + seconds
            step()
        return False

    return timed
