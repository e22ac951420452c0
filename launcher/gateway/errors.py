"""Errors that the gateway answers with itself: their bodies, and which error of TorchServe becomes which."""

import json
from pathlib import Path

from launcher.gateway.keys import write_private

OVERLOADED = "the server is overloaded, with more requests than it can answer in time, or down: try again later"
UNAVAILABLE = "the server is overloaded or down: try again later"

ERRORS = {
    400: ("BadRequest", "the request or its Host is malformed, or it is a GET with a body, or has a query string"),
    401: ("Unauthorized", "the API key is missing or wrong: send it as `Authorization: Bearer KEY`"),
    403: ("Forbidden", "requests from pages of other sites are refused"),
    404: ("NotFound", "unknown path, model or version: POST to /predictions/MODEL or /v1/chat/completions"),
    405: ("MethodNotAllowed", "the header Allow names the methods of this path"),
    408: ("Timeout", "the request did not arrive in time"),
    411: ("LengthRequired", "the request has no Content-Length; chunked bodies are not read"),
    413: ("TooLarge", "the body is larger than max_request_size in config.properties"),
    414: ("TooLarge", "the path is too long"),
    415: (
        "UnsupportedForm",
        "the Content-Type must be multipart/form-data with one boundary of 1 to 70 characters; its charset is utf-8",
    ),
    421: ("Misdirected", "this host name is not in `names` of the gateway's settings"),
    429: ("TooManyRequests", "this client sends more requests than its limit: wait as Retry-After says"),
    431: ("TooLarge", "the headers are too large"),
    500: ("InternalError", "the model or the server failed on this request"),
    501: ("NotImplemented", "this transfer encoding is not supported: send a Content-Length"),
    503: ("Overloaded", OVERLOADED),
    504: ("Timeout", "there was no report in time"),
}
"""Bodies that the gateway answers with, in the shape of the server's own errors: status -> type, message."""

UNREADABLE_FORM = (
    "UnreadableForm",
    "a part of the form cannot be read: each has `Content-Disposition: form-data; name=NAME`, and a charset, filename* "
    "or boundary in it must be valid",
)
"""Of a form whose Content-Type is right; with status 400."""

SHOWN_AS = {494: 431, 495: 400, 496: 400, 497: 400, 502: 503, 505: 400}
"""nginx's own codes, and codes with the meaning of another."""

UPSTREAM = {
    # TorchServe does not take the gateway's key, which the client cannot change: it has been renewed a moment ago.
    400: 503,
    401: 503,
    403: 503,
    421: 503,
    # An unknown model or version: the gateway has checked the rest of path and method.
    404: 404,
    405: 404,
    413: 413,
    417: 500,
    429: 429,
    503: 503,
    504: 504,
}
"""Errors of TorchServe, and of gateways of serving hosts: status -> that of the answer. 500, 502 and 507 are deaths."""

HANDLED = (400, 404, 413, 503, 504)
"""Those that the handler has too, with an error of its own, which passes."""

UNKNOWN_PATH = ("UnknownPath", "this path is not served; known: v1/chat/completions and v1/models")
UNKNOWN_MODEL = "model is not {}, the model at this address"
"""Of OpenAI's interface, as the handler has them."""

OF_FORMS = 403
"""TorchServe's other error for a form that it cannot read, besides 500."""

OPENAI = "openai"
"""Folder of the bodies in OpenAI's shape, for the paths under /v1."""

_ID = "<!--# echo var='id' -->"
"""What nginx replaces by the id of the request (its module for server-side includes)."""


def write_error(folder: Path, name: str, code: int, kind: str, message: str, *, param: str | None = None) -> None:
    """Write the body of an error in both shapes.

    folder : that nginx reads errors from
    name   : of the file
    param  : of OpenAI's shape
    """
    (folder / OPENAI).mkdir(exist_ok=True)
    # The file in our own shape last: the door is closed by it.
    for path, body in zip((folder / OPENAI / name, folder / name), _bodies(code, kind, message, param), strict=True):
        # A message must not have what nginx would replace.
        write_private(path, body.replace("<", "\\u003c").replace('"ID"', f'"{_ID}"') + "\n")


def unreadable_form() -> str:
    """The lines of the map to the error of a form that TorchServe cannot read: after 1, by the shape of the answer."""
    bodies = (body.replace('"ID"', '"$id"') for body in _bodies(400, *UNREADABLE_FORM))
    openai, ours = (body.replace('"', '\\"') for body in bodies)
    return f'1 "{ours}"; 1/{OPENAI} "{openai}";'


def _bodies(code: int, kind: str, message: str, param: str | None = None) -> tuple[str, str]:
    """An error in OpenAI's shape and in our own, with "ID" where the id of the request goes."""
    category = "invalid_request_error" if code < 500 else "server_error"
    openai = {"message": message, "type": category, "param": param, "code": kind}
    ours = {"code": code, "type": kind, "message": message}
    first, second = (json.dumps({"error": error | {"request_id": "ID"}}) for error in (openai, ours))
    return first, second


def remove_error(folder: Path, name: str) -> None:
    """Remove what `write_error` has written."""
    for path in (folder / name, folder / OPENAI / name):
        path.unlink(missing_ok=True)


def upstream_directives() -> dict[str, str]:
    """What the template has for errors of TorchServe, or of serving hosts."""
    lines = [
        f"error_page {code} = @answer_{code};"
        if code in (*HANDLED, OF_FORMS)
        else f"error_page {code} ={shown} {_page(shown)};"
        for code, shown in UPSTREAM.items()
    ]
    answers = [_answer(code, UPSTREAM[code]) for code in (*HANDLED, OF_FORMS)] + [_answer(500, 500)]
    return {"upstream_errors": "\n            ".join(lines), "answers": "\n        ".join(answers)}


def error_page(code: int) -> str:
    """The directive for an error of nginx's own."""
    shown = SHOWN_AS.get(code, code)
    return f"error_page {code} {'' if shown == code else f'={shown} '}{_page(shown)};"


def _page(code: int) -> str:
    return f"/_errors$shape/{'$missing' if code == 404 else code}.json"


def _answer(code: int, shown: int) -> str:
    """The location that answers with the handler's error, or with the gateway's."""
    passed, value = (400, "$unreadable_form") if code == OF_FORMS else (code, "$upstream_http_x_prelim_error")
    return (
        f"location @answer_{code} {{ default_type application/json; recursive_error_pages on; "
        f"error_page {shown} {_page(shown)}; "
        f"if ({value}) {{ return {passed} {value}; }} return {shown}; }}"
    )
