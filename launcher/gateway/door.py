"""The door of the gateway: a file that nginx looks for at every request, and answers with while it is there.

The launcher closes it before it stops TorchServe. The gateway closes it when TorchServe is gone or cannot serve, and
opens it when the model is ready and nginx has TorchServe's key.
"""

import contextlib
import json
from pathlib import Path

from launcher.gateway.errors import remove_error, write_error

STARTING = ("Starting", "the server loads its models: try again as Retry-After says")
STOPPING = ("Stopping", "the server finishes its last requests before it stops: try again as Retry-After says")
STOPPED = ("Stopped", "the server does not run: try again as Retry-After says")
MEASURING = ("Measuring", "the server measures itself before its first start: try again as Retry-After says")
NO_WORKER = ("NoWorker", "no worker of the model is ready: try again as Retry-After says")
HELD = (STOPPING[0], MEASURING[0])
"""What only the launcher ends, although a worker is ready; unless it was killed meanwhile."""

CLOSED = "closed.json"
"""The file that nginx looks for."""

LOAD_FAILED = "LoadFailed"
"""Kind of a door that stays closed until somebody does something; its message is the reason."""


class Door:
    """The door of the gateway of one server, whether the gateway runs or not.

    temporary : folder of the server
    """

    def __init__(self, temporary: Path) -> None:
        self.folder = temporary / "gateway"
        self._file = self.folder / "_errors" / CLOSED

    @property
    def closed(self) -> str | None:
        """Why it is closed, in one word; None if it is open."""
        try:
            return str(json.loads(self._file.read_text(encoding="utf-8"))["error"]["type"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def close(self, kind: str, message: str) -> None:
        """Refuse new requests with 503 and this error. Without effect without a gateway, and on a full disk."""
        # A server must stop, and its gateway go on, where nothing can be written.
        with contextlib.suppress(OSError):
            if self._file.parent.is_dir():
                write_error(self._file.parent, CLOSED, 503, kind, message)

    def open(self) -> None:
        """Let requests pass."""
        remove_error(self._file.parent, CLOSED)
