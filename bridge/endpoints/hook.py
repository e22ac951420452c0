"""The address that a PACS calls when a study is complete: POST /studies/{StudyInstanceUID}, answered at once."""

import contextlib
import re
import shutil
from collections.abc import Iterator

from bridge.configuration.section import read_secret
from bridge.configuration.settings import Settings
from bridge.endpoints.http_server import QuietHandler, serving
from bridge.store.queue import Queue
from bridge.store.schema import NotRecorded

STUDY = re.compile(r"/studies/(?=[0-9.]{1,64}$)([0-9]+(?:\.[0-9]+)*)")
MAX_BODY = 65536


@contextlib.contextmanager
def listen_to_hook(settings: Settings, queue: Queue) -> Iterator[int]:
    """Listen in a thread; yields the port.

    A study is due at once: the PACS has waited until it was stable. An event that is lost, because the disk is full
    or the bridge is away, is found by polling.
    """
    assert settings.hook is not None  # noqa: S101 - its caller has looked
    token = read_secret(settings.hook.token_file)

    class Handler(QuietHandler):
        """Answers one request."""

        def do_POST(self) -> None:  # noqa: N802 - the name that http.server wants
            """Record the event."""
            self.discard_body(MAX_BODY)
            found = STUDY.fullmatch(self.path)
            if not self.is_authorized(token):
                self.answer(401)
            elif found is None:
                self.answer(404)
            else:
                self.answer(_record(settings, queue, found[1]))

    with serving(settings.hook.host, settings.hook.port, Handler) as port:
        yield port


def _record(settings: Settings, queue: Queue, study: str) -> int:
    """Record the event; the HTTP status."""
    if shutil.disk_usage(settings.state).free < settings.queue.min_free_mb * 2**20:
        return 507
    try:
        queue.notify(study, 0.0)
    except NotRecorded:
        return 507
    return 202
