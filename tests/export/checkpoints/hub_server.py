"""A minimal hub on loopback: the part of the HTTP API that `huggingface_hub` needs to download a model."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """State of the hub.

    url        : its endpoint
    models     : name -> folder
    refused    : name -> (status, X-Error-Code) for all its files
    revisions  : the existing ones
    answer     : if set, the response to every request
    downloaded : name/file of every file sent
    """

    url: str = ""
    models: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    revisions: tuple[str, ...] = ("main", COMMIT)
    answer: bytes | None = None
    downloaded: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    """Handles requests to `server.hub`."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        """Send a listing or a file."""
        hub = self.server.hub
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if listing else parts[:2])
        kind, revision, *rest = [*parts[4:], "revision", "main"] if listing else parts[2:]
        if name not in hub.models:
            self._answer(404, X_Error_Code="RepoNotFound")
        elif revision not in hub.revisions:
            self._answer(404, X_Error_Code="RevisionNotFound")
        elif hub.answer is not None:
            self._answer(200, hub.answer)
        elif listing:
            self._answer(200, json.dumps(_list_files(hub.models[name], kind)).encode())
        elif name in hub.refused:
            status, code = hub.refused[name]
            self._answer(status, X_Error_Code=code)
        else:
            body = (hub.models[name] / rest[0]).read_bytes()
            if self.command == "GET":
                hub.downloaded.append(f"{name}/{rest[0]}")
            self._answer(200, body, ETag=f'"{hashlib.sha256(body).hexdigest()}"', X_Repo_Commit=COMMIT)

    def do_HEAD(self) -> None:
        """Send only the headers."""
        self.do_GET()

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


def _list_files(folder: Path, kind: str) -> object:
    files = sorted(folder.iterdir())
    if kind == "tree":
        return [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files]
    return {"id": "any", "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in files]}


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Run a hub while the context lasts."""
    hub = Hub()
    server = _Server(hub)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
