"""The running bridge: threads that draft, poll, listen and clean up, until it is told to stop."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from bridge.dicomweb import DicomWebArchive
from bridge.drafting import Drafter
from bridge.failures import Outage
from bridge.hook import listen_to_hook
from bridge.identity import SiteKey
from bridge.journal import describe_failure, log
from bridge.queue import Full, Queue, sole_process
from bridge.settings import Settings
from bridge.worker import Worker

IDLE_S = 0.2
PURGE_EVERY_S = 3600.0


def serve(settings: Settings, stop: threading.Event) -> None:
    """Run the bridge until `stop` is set; the work in progress is finished first.

    Raises QueueError if another bridge has the state folder, or its queue cannot be read.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(sole_process(settings.state))
        queue = stack.enter_context(contextlib.closing(Queue(settings.state / "queue.sqlite")))
        key = SiteKey.load(settings.state / "site.key")
        loops = [_purging(settings, queue)]
        archive = DicomWebArchive(settings.dicomweb)
        worker = Worker(settings, queue, key, Drafter(settings, queue, key, archive, archive))
        loops += [worker.step] * settings.queue.workers
        if settings.poll is not None:
            loops.append(_polling(settings, queue, archive))
        if settings.hook is not None:
            stack.enter_context(listen_to_hook(settings, queue))
        stack.enter_context(_running(loops, stop))
        log("started", count=queue.counts()["waiting"])
        stop.wait()
    log("stopped")


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
        for thread in threads:
            thread.join()


def _repeat(step: Callable[[], bool], stop: threading.Event) -> None:
    """Call a step until told to stop, at once after a step that had work, else after a pause."""
    while not stop.is_set():
        try:
            busy = step()
        except Full:
            log("disk_full")
            busy = stop.wait(5)
        except Exception as error:  # noqa: BLE001 - a loop that ends would end the service in silence
            log("unexpected", **describe_failure(error))
            busy = stop.wait(5)
        if not busy:
            stop.wait(IDLE_S)


def _polling(settings: Settings, queue: Queue, archive: DicomWebArchive) -> Callable[[], bool]:
    """Return a step that looks for new and changed studies when it is time to."""
    poll = settings.poll
    assert poll is not None  # noqa: S101 - its caller has looked
    due = time.monotonic()

    def step() -> bool:
        nonlocal due
        if time.monotonic() < due:
            return False
        due = time.monotonic() + poll.every_s
        try:
            for modality in poll.modalities:
                for study, seen in archive.recent_studies(poll.days, modality):
                    queue.see(study, seen, settings.queue.stable_s)
        except Outage as error:
            log("poll_failed", reason=error.reason)
        return False

    return step


def _purging(settings: Settings, queue: Queue) -> Callable[[], bool]:
    """Return a step that removes what is past its retention, once an hour."""
    due = time.monotonic()

    def step() -> bool:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + PURGE_EVERY_S
            log("purged", count=queue.purge(settings.queue.retention_days))
        return False

    return step
