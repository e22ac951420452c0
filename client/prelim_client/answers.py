"""The server's answers and keys."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Answer = dict[str, Any]

WORKER_DIED = "Worker died."
"""How TorchServe's message begins, over HTTP and gRPC; its code can be one of several."""


class ReportError(Exception):
    """The server returned an error instead of a report.

    code    : HTTP status code; over gRPC, the code of the error in the body
    type    : name of the error
    message : what is wrong and how to fix it
    request_id : of the request, in the server's logs too; empty if the answer has none
    """

    def __init__(self, code: int, kind: str, message: str, request_id: str = "") -> None:
        super().__init__(f"{code} {kind}: {message}")
        self.code = code
        self.type = kind
        self.message = message
        self.request_id = request_id


class WorkerDied(ReportError):
    """TorchServe's own answer to a request in whose course its worker died; there was no output."""


class KeyFileError(ValueError):
    """A file of keys cannot be read."""


def read_answer(body: bytes, code: int = 200) -> Answer:
    """Parse the body of an answer.

    Status 200 can carry an error: gRPC loses the status, and a stream sends it before the text.

    Raises ReportError when the body contains an error or is not a JSON object; WorkerDied.
    """
    try:
        contents = json.loads(body)
    except ValueError:
        contents = None
    if code == 413 and not body:
        # TorchServe refuses the length alone, before anything is read.
        raise ReportError(code, "TooLarge", "the request is larger than the server's max_request_size")
    if not isinstance(contents, dict):
        raise ReportError(code, "NoAnswer", f"the server sent {len(body)} bytes that are not a JSON object")
    error = contents.get("error")
    if isinstance(error, Mapping):
        # Of a gateway that is not ours it has other members.
        named = error.get("code")
        kind, message = (str(error.get(name, "")) for name in ("type", "message"))
        raise ReportError(named if isinstance(named, int) else code, kind, message, str(error.get("request_id", "")))
    if code != 200:
        # Errors of the frontend itself: {"code": ..., "type": ..., "message": ...}.
        kind, message = str(contents.get("type")), str(contents.get("message"))
        raise (WorkerDied if message.startswith(WORKER_DIED) else ReportError)(code, kind, message)
    return contents


def read_key(key_file: Path, kind: str = "inference") -> str:
    """Read a key from TorchServe's key_file.json.

    kind : "inference", "management" or "API"

    Raises KeyFileError when the file cannot be read or has no such key.
    """
    try:
        return str(json.loads(key_file.read_text(encoding="utf-8"))[kind]["key"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise KeyFileError(f"{key_file} has no key for {kind}: it must be the file that the server writes") from error
