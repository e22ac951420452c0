"""Fields of a request, from however they were written: form parts, gRPC inputs or JSON."""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from prelim.errors import InvalidOption, UnreadableInput

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")

BODY = ("body", "data")
"""What TorchServe calls a raw HTTP body, and what gRPC clients by custom call their one input."""


def collect_fields(row: Mapping[str, Any], headers: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of one item by name; a raw body is its `image`, or JSON with fields of its own.

    Raises UnreadableInput: for JSON that cannot be parsed, and for a field that is given twice.
    """
    fields: dict[str, Any] = {}
    for name, value in row.items():
        inner = _body_fields(value, headers.get(name)) if name in BODY else {name: value}
        doubled = sorted(set(inner) & set(fields))
        if doubled:
            raise UnreadableInput(f"{sanitised(doubled[0])} is given twice")
        fields |= inner
    return {name: value for name, value in fields.items() if value is not None}


def _body_fields(value: Any, described: Any) -> dict[str, Any]:
    content_type = described.get("content-type", "") if isinstance(described, Mapping) else ""
    # No image that is read here begins with a brace, and clients forget the content type.
    is_json = not isinstance(value, str | bytes | bytearray) or _is_json(content_type) or _starts_with_brace(value)
    return _json_fields(value) if is_json else {"image": value}


def _is_json(content_type: str) -> bool:
    return content_type.split(";", maxsplit=1)[0].strip().lower() == "application/json"


def _starts_with_brace(value: str | bytes | bytearray) -> bool:
    start = value[:64].lstrip()
    return bool(start[:1] == ("{" if isinstance(value, str) else b"{"))


def _json_fields(value: Any) -> dict[str, Any]:
    contents = json_value("the body", value)
    if not isinstance(contents, dict):
        raise UnreadableInput(f"the JSON body is of type {type(contents).__name__}; it must be an object")
    if contents.get("image") is not None:
        contents["image"] = _from_base64(contents["image"])
    return contents


def _from_base64(value: Any) -> bytes:
    if not isinstance(value, str):
        raise UnreadableInput(f"image is of type {type(value).__name__}; in JSON it must be base64 text")
    encoded = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableInput("image is not valid base64") from error


def json_value(name: str, value: Any) -> Any:
    """The value of a field that is JSON, or is text that holds JSON."""
    if not isinstance(value, str | bytes | bytearray):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:  # a UnicodeDecodeError is a ValueError
        raise UnreadableInput(f"{name} is not valid JSON") from error


def text(name: str, value: Any) -> Any:
    """Bytes of a form part or a gRPC input as text; a JSON value as it is."""
    if not isinstance(value, bytes | bytearray):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableInput(f"{name} is not UTF-8 text") from error


def boolean(name: str, value: Any) -> bool:
    """True or false, as JSON or as text."""
    given = text(name, value)
    words = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(given, bool):
        return given
    if isinstance(given, str) and given.strip().lower() in words:
        return words[given.strip().lower()]
    raise InvalidOption(f"{name} must be true or false")


def sanitised(name: str) -> str:
    """A field's name for a message; the name of a misread field may be anything, even the image."""
    return f"'{name}'" if _NAME.fullmatch(name) else "(its name is not an identifier)"
