"""A small HTTP server whose answers and log never repeat a request."""

import contextlib
import hmac
import re
import select
import socket
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bridge.configuration.section import ConfigError
from bridge.journal import log

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class QuietHandler(BaseHTTPRequestHandler):
    """Answers one request a connection."""

    timeout = 10
    _is_read = False
    _request_id = ""

    def is_authorized(self, token: str | None) -> bool:
        """Whether the request has this bearer token; without a token every request may come."""
        given = self.headers.get("Authorization", "")
        return token is None or hmac.compare_digest(given.encode(), f"Bearer {token}".encode())

    @property
    def request_id(self) -> str:
        """The request's id, which the gateway sends; a new one if there is none, or one that is not well formed."""
        if not self._request_id:
            given = self.headers.get("X-Request-Id", "")
            self._request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        return self._request_id

    def content_length(self) -> int | None:
        """Return the length of the body, or None if it is not given as a number."""
        given = self.headers.get("Content-Length", "")
        return int(given) if given.isascii() and given.isdecimal() and len(given) < 16 else None

    def read_body(self) -> bytes:
        """Return the body."""
        self._is_read = True
        return self.rfile.read(self.content_length() or 0)

    def is_awaited(self) -> bool:
        """Whether the client still waits for the answer, once the body has been read."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        with contextlib.suppress(OSError):
            return not readable or self.connection.recv(1, socket.MSG_PEEK) != b""
        return False

    def discard_body(self, limit: int) -> None:
        """Read a body that nobody has read, up to a limit: closing with unread data would reset the connection."""
        remaining = min(self.content_length() or 0, limit) if not self._is_read else 0
        while remaining and (chunk := self.rfile.read(min(remaining, 65536))):
            remaining -= len(chunk)

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        """Send an answer; `headers` have underscores for hyphens."""
        self.send_response_only(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        # A client that has gone must not end in a traceback on standard error.
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def send_error(self, code: int, *_: object) -> None:
        """Answer what is not HTTP, without the text of http.server, which quotes the request."""
        self.answer(code)

    def log_message(self, *_: object) -> None:
        """Write nothing: the path may have a UID."""


class QuietServer(ThreadingHTTPServer):
    """Serves each connection in a thread, and writes no tracebacks."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Write nothing: the text of an exception may quote the request."""
        log("connection_failed")


@contextlib.contextmanager
def serving(host: str, port: int, handler: type[QuietHandler]) -> Iterator[int]:
    """Serve in a thread; yields the port.

    Raises ConfigError if the port cannot be used.
    """
    try:
        listening = QuietServer((host, port), handler)
    except OSError as error:
        raise ConfigError(f"port {port} on {host} cannot be used: {error.strerror}") from None
    with listening as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        log("listening", port=server.server_port)
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
