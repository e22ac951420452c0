"""What TorchServe's frontend leaves out of a request over HTTP. It reports none of it itself.

- The part of the path after the model's version is only a header, `url_path`.
- The query string is lost, except on /invocations, where it becomes fields.
- Of two form parts with the same name only the last one is a field; a form that is cut off, or whose boundary is not
  that of its header, has no fields.
"""

import re
from collections.abc import Mapping
from typing import Any

from prelim.errors import InputError, UnknownModel, UnknownPath, UnreadableInput

MAX_FILE_OVERHEAD = 1024
"""Bytes of a form that are not the value of a field, for each file and once more: boundary, headers, a file name of 255
characters that are escaped."""

MAX_OPTION_OVERHEAD = 256
"""The same for a field other than a file. An image that was left out is almost always larger than all of these."""


COMPLETIONS = "v1/chat/completions"
MODELS = "v1/models"
OPENAI = "v1/"


REQUEST_ID = "request_id"
"""The field with the id of a request over gRPC, whose metadata TorchServe drops; over HTTP it is X-Request-Id."""

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def is_grpc(headers: Mapping[str, Any]) -> bool:
    """Whether an item came over gRPC.

    TorchServe passes no header of a gRPC call. What it lists among the headers under the names of the inputs
    are dictionaries, which no HTTP header is, so that a client cannot pass for the other kind.
    """
    return not any(isinstance(value, str) for value in headers.values())


def find_id(row: Mapping[str, Any], headers: Mapping[str, Any], otherwise: str) -> str:
    """The id that a request has everywhere: the gateway's or client's if it is well formed, otherwise TorchServe's."""
    given = row.get(REQUEST_ID) if is_grpc(headers) else _header(headers, "x-request-id")
    text = given.decode("ascii", "replace") if isinstance(given, bytes | bytearray) else given
    return text if isinstance(text, str) and _ID.fullmatch(text) else otherwise


def path_of(headers: Mapping[str, Any]) -> str:
    """What follows the version of the model in the path of a request over HTTP."""
    path = headers.get("url_path")
    return path.strip("/") if isinstance(path, str) else ""


def unknown_path(path: str, served: str) -> InputError:
    """The error of a path in OpenAI's interface that is not served, which its clients may know as a model's."""
    if path.startswith(f"{MODELS}/"):
        return UnknownModel(f"model is not {served}, the model at this address", "model")
    return UnknownPath(f"this path is not served; known: {COMPLETIONS} and {MODELS}")


def check_route(row: Mapping[str, Any], headers: Mapping[str, Any]) -> None:
    """Raise UnreadableInput if the path has too many parts, or the form more parts than a request has fields."""
    if isinstance(headers.get("url_path"), str) and headers["url_path"]:
        raise UnreadableInput(
            "the path continues after the version of the model; send the request to /predictions/MODEL or "
            f"/predictions/MODEL/VERSION, and options as fields, or a chat completion to .../{COMPLETIONS}"
        )
    length = _header(headers, "content-length")
    if not _header(headers, "content-type").lower().startswith("multipart/") or not length.isdecimal():
        return
    left_out = int(length) - sum(len(value) for value in row.values() if isinstance(value, bytes | bytearray | str))
    files = sum(name.startswith("image") for name in row)
    if left_out > MAX_FILE_OVERHEAD * (files + 1) + MAX_OPTION_OVERHEAD * (len(row) - files):
        raise UnreadableInput(
            f"{left_out} of {length} bytes of the form are in none of its {len(row)} fields: a name was given "
            "twice, or the form ends early, or its boundary is not the header's"
        )


def fields_of_route(row: Mapping[str, Any], headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row without the name of the model, which /invocations takes from the query string.

    All other routes of TorchServe have the header `explain`, and gRPC has no header at all.
    """
    invoked = "explain" not in headers and any(isinstance(value, str) for value in headers.values())
    return {name: value for name, value in row.items() if name != "model_name"} if invoked else row


def _header(headers: Mapping[str, Any], wanted: str) -> str:
    found = (value for name, value in headers.items() if name.lower() == wanted and isinstance(value, str))
    return next(found, "")
