"""A server with the contract of the real one, without a model: answers by the bytes that it gets."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

from pydicom import dcmread


class FakeServer:
    """A context manager. `received` has the bodies, `ids` the requests' ids; a test can replace `answer`.

    answer : image -> (status, contents)
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.received: list[bytes] = []
        self.ids: list[str | None] = []
        self.weights = "a" * 64
        self.answer = self.report
        self.key_file = folder / "key_file.json"
        self.key_file.write_text(json.dumps({"inference": {"key": "secret"}}))
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fake.received.append(body)
                fake.ids.append(self.headers.get("X-Request-Id"))
                status, contents = fake.answer(body)
                encoded = json.dumps(contents).encode()
                self.send_response_only(status)
                self.send_header("Content-Length", str(len(encoded)))
                self.end_headers()
                self.wfile.write(encoded)

            def log_message(self, *_: object) -> None:
                """Keep the output of the tests clean."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def report(self, image: bytes) -> tuple[int, Any]:
        """A report whose text follows from the picture, which may be a part of a form, or the first of several."""
        file = files_of(image)[0] if image.startswith(b"{") else image[image.index(b"DICM") - 128 :]
        pixels = dcmread(BytesIO(file)).PixelData
        return 200, {
            "report": f"Heart size {hashlib.sha256(pixels).hexdigest()[:8]}. No effusion.",
            "sections": {"findings": "Heart size normal. µ-opacity: none.", "impression": "No acute disease."},
            "status": "UNVERIFIED",
            "finish_reason": "eos",
            "num_tokens": 9,
            "avg_logprob": -0.2,
            "alternatives": [],
            "model": {"name": "demo", "version": "1.0", "architecture": "mobilenet_graph", "sha256": self.weights},
            "warnings": ["burned_in_unknown: (0028,0301) Burned In Annotation is absent"],
            "timing_ms": {"queue": 0, "preprocess": 1, "vision": 1, "decode": 1},
        }

    def __enter__(self) -> "FakeServer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()


def files_of(body: bytes) -> list[bytes]:
    """Return the images of a request with several."""
    return [base64.b64decode(image) for image in json.loads(body)["images"]]


def refusal(status: int, kind: str, message: str) -> tuple[int, Any]:
    """Return an error answer of the server."""
    return status, {"error": {"code": status, "type": kind, "message": message}}
