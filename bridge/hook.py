"""The address that a PACS calls when a study is complete: POST /studies/{StudyInstanceUID}, answered at once."""

import contextlib
import hmac
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bridge.journal import log
from bridge.queue import Full, Queue
from bridge.settings import Settings
from bridge.web import read_secret

STUDY = re.compile(r"/studies/([0-9.]{1,64})")
MAX_BODY = 65536


@contextlib.contextmanager
def listen_to_hook(settings: Settings, queue: Queue) -> Iterator[int]:
    """Listen in a thread; yields the port.

    A study is due at once: the PACS has waited until it was stable. An event that is lost, because the disk is full
    or the bridge is away, is found by polling.
    """
    assert settings.hook is not None  # noqa: S101 - its caller has looked
    token = read_secret(settings.hook.token_file)

    class Handler(BaseHTTPRequestHandler):
        """Answers one request."""

        timeout = 10

        def do_POST(self) -> None:
            """Record the event."""
            # Closing a connection with unread data would reset it before the answer is read.
            length = self.headers.get("Content-Length", "0")
            self.rfile.read(min(int(length), MAX_BODY) if length.isdecimal() else 0)
            given = self.headers.get("Authorization", "")
            found = STUDY.fullmatch(self.path)
            if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                self._answer(401)
            elif found is None:
                self._answer(404)
            else:
                self._answer(_record(settings, queue, found[1]))

        def send_error(self, code: int, *_: object) -> None:
            """Answer what is not HTTP, without the text of http.server, which quotes the request."""
            self._answer(code)

        def _answer(self, code: int) -> None:
            self.send_response_only(code)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Write nothing: the path has the UID."""

    with ThreadingHTTPServer((settings.hook.host, settings.hook.port), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        log("listening", port=server.server_port)
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _record(settings: Settings, queue: Queue, study: str) -> int:
    """Record the event; the HTTP status."""
    if shutil.disk_usage(settings.state).free < settings.queue.min_free_mb * 2**20:
        return 507
    try:
        queue.notify(study, 0.0)
    except Full:
        return 507
    return 202
