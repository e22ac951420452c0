"""Fields of a request, from however they were written: form parts, gRPC inputs or JSON.

The size of a field is checked before it is parsed: a body may have 64 MB, and as JSON 60 MB of small objects take ten
seconds and 2.7 GB. Only the image may be large, and it is taken out of the JSON as it is.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from prelim.errors import InvalidOption, TooLarge, UnreadableInput
from prelim.formats.json_text import RepeatedKey, load_json

MAX_FIELDS = 48
"""Fields of a request, or members of one of its JSON objects. Inputs and options together are fewer."""

MAX_TEXT_BYTES = 128 * 1024
"""Bytes of a field that is neither the image nor its features: a prompt of 8000 characters, each escaped as two
surrogates of six bytes, takes 96 kB; options take less."""

BYTES_PER_NUMBER = 40
"""Of image_features as JSON: 17 digits, sign and exponent take 24, and with `json.dumps(indent=4)` each has a line."""

MAX_JSON_CONTAINERS = 10_000
"""Opening brackets in one JSON text: image_features have one for each image token, some hundreds at most, and a prompt
may be 8000 of them. Small lists take ten times the time and memory of a text of the same length."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,31}")
_IMAGES_MEMBER = re.compile(rb'"images"[ \t\r\n]*:[ \t\r\n]*\[')
_TEXTS = re.compile(rb'[ \t\r\n]*(?:"[^"]*"[ \t\r\n]*(?:,[ \t\r\n]*"[^"]*"[ \t\r\n]*)*)?')
"""The inside of a JSON list of base64 texts, in which no quote is escaped."""

MAX_IMAGES = 8
"""Entries of `images`; a model may take fewer."""

_IMAGE_MEMBER = re.compile(rb'"image"[ \t\r\n]*:[ \t\r\n]*"')

_ESCAPED = {rb"\/": b"/", rb"\n": b"", rb"\r": b""} | {
    (rb"\u00" + digits): character
    for character in (b"+", b"/", b"=", b"\r", b"\n")
    for digits in {character.hex().encode(), character.hex().upper().encode()}
}
"""How JSON encoders escape what base64 text contains. A JSON parser would need gigabytes for 60 MB of escapes."""

BODY = ("body", "data")
"""What TorchServe calls a raw HTTP body, and the conventional name of a gRPC client's single input."""


def max_features_bytes(numbers: int) -> int:
    """The largest JSON text of image_features with so many numbers, bytes."""
    return MAX_TEXT_BYTES + BYTES_PER_NUMBER * numbers


def collect_fields(row: Mapping[str, Any], headers: Mapping[str, Any], max_bytes: int) -> dict[str, Any]:
    """The fields of one item by name; a raw body is its `image`, or JSON with fields of its own.

    max_bytes : of JSON text, the image not counted

    Raises TooLarge: for too many fields and too much JSON. Raises UnreadableInput: for JSON that cannot be parsed, and
    for a field that is given twice.
    """
    _check_count("the request", row, "fields")
    fields: dict[str, Any] = {}
    for name, value in row.items():
        inner = _body_fields(value, headers.get(name), max_bytes) if name in BODY else {name: value}
        doubled = min(inner.keys() & fields.keys(), default=None)
        if doubled is not None:
            raise UnreadableInput(f"{sanitized(doubled)} is given twice")
        fields |= inner
    return {name: value for name, value in fields.items() if value is not None}


def _body_fields(value: Any, described: Any, max_bytes: int) -> dict[str, Any]:
    content_type = described.get("content-type", "") if isinstance(described, Mapping) else ""
    # No image that is read here begins with a brace, and clients forget the content type.
    is_json = not isinstance(value, str | bytes | bytearray) or _is_json(content_type) or _starts_with_brace(value)
    return _json_fields(value, max_bytes) if is_json else {"image": value}


def _is_json(content_type: str) -> bool:
    return content_type.split(";", maxsplit=1)[0].strip().lower() == "application/json"


def _starts_with_brace(value: str | bytes | bytearray) -> bool:
    start = value[:64].lstrip()
    return bool(start[:1] == ("{" if isinstance(value, str) else b"{"))


def _json_fields(value: Any, max_bytes: int) -> dict[str, Any]:
    images, rest = _cut_images(_encoded(value))
    image, rest = _cut_image(rest)
    contents = json_object("the body", rest, max_bytes)
    if images is not None:
        if contents.get("images") != []:
            raise UnreadableInput("images must be given once, as a member of the body's JSON object")
        contents["images"] = images
    elif contents.get("images") is not None:
        contents["images"] = list_of_images(contents["images"])
    if image is not None:
        if contents.get("image") != "":
            raise UnreadableInput("image must be given once, as a member of the body's JSON object")
        contents["image"] = from_base64(image)
    elif contents.get("image") is not None:
        contents["image"] = from_base64(contents["image"])
    return contents


def find_value(body: Any, member: "re.Pattern[bytes]", end: bytes, start: int = 0) -> slice | None:
    """Where the value of a member is in JSON that is not parsed; None where there is none, or the body is not bytes.

    member : matches up to the value
    end    : what follows the value, and does not occur in it: base64 has no quote, bracket or escaped quote
    """
    found = member.search(body, start) if isinstance(body, bytes | bytearray) else None
    stop = body.find(end, found.end()) if found else -1
    return None if found is None or stop < 0 else slice(found.end(), stop)


def _cut_images(value: Any) -> tuple[list[bytes] | None, Any]:
    """The files of a JSON body's images, and the body with an empty list instead; see `_cut_image`."""
    place = find_value(value, _IMAGES_MEMBER, b"]")
    if place is None:
        return None, value
    return list_of_images(b"[%b]" % value[place]), bytes(value[: place.start]) + bytes(value[place.stop :])


def list_of_images(value: Any) -> list[bytes]:
    """The files of a list of base64 texts, which may be JSON itself. Raises UnreadableInput if it is not one."""
    texts = value
    if isinstance(value, str | bytes | bytearray):
        encoded = bytes(_encoded(value)).strip()
        _check_images(encoded.count(b'"') // 2)  # before they are split: 60 MB of empty texts take 4 GB
        if encoded[:1] != b"[" or encoded[-1:] != b"]" or _TEXTS.fullmatch(encoded, 1, len(encoded) - 1) is None:
            raise UnreadableInput("images must be a JSON list of base64 texts, one for each image")
        texts = encoded[1:-1].split(b'"')[1::2]
    if not isinstance(texts, list):
        raise UnreadableInput(f"images is of type {type(value).__name__}; it must be a list of base64 texts")
    _check_images(len(texts))
    return [from_base64(text) for text in texts]


def _check_images(count: int) -> None:
    if count > MAX_IMAGES:
        raise TooLarge(f"images has {count} entries; at most {MAX_IMAGES} are read")


def _cut_image(value: Any) -> tuple[bytes | None, Any]:
    """The base64 text of a JSON body's image, and the body with an empty text instead.

    An `image` elsewhere than in the outer object, where alone one is allowed, leaves an `image` that is not empty, or
    a member that is refused as unknown.
    """
    place = find_value(value, _IMAGE_MEMBER, b'"')
    if place is None:
        return None, value
    return bytes(value[place]), bytes(value[: place.start]) + bytes(value[place.stop :])


def from_base64(value: Any) -> bytes:
    """The bytes of base64 text, as JSON encoders write it: escaped, and in lines."""
    if not isinstance(value, str | bytes):
        raise UnreadableInput(f"image is of type {type(value).__name__}; in JSON it must be base64 text")
    encoded = _encoded(value)
    if encoded.startswith(b"data:"):
        encoded = encoded.partition(b",")[2]
    if b"\\" in encoded:
        for escaped, character in _ESCAPED.items():
            encoded = encoded.replace(escaped, character)
    try:
        return base64.b64decode(encoded.translate(None, b"\r\n"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnreadableInput("image is not valid base64") from error


def json_object(name: str, value: Any, max_bytes: int = MAX_TEXT_BYTES) -> dict[str, Any]:
    """The value of a field that is a JSON object, with few members."""
    contents = json_value(name, value, max_bytes)
    if not isinstance(contents, dict):
        raise UnreadableInput(f"{name} is of type {type(contents).__name__}; it must be an object of names and values")
    _check_count(name, contents, "members")
    return contents


def json_value(name: str, value: Any, max_bytes: int = MAX_TEXT_BYTES) -> Any:
    """The value of a field that is JSON, or is text that holds JSON, of at most so many bytes."""
    if not isinstance(value, str | bytes | bytearray):
        return value
    encoded = _encoded(value)
    if len(encoded) > max_bytes:
        raise TooLarge(f"{name} has {len(encoded)} bytes of JSON, an image not counted; at most {max_bytes} are read")
    containers = encoded.count(b"[") + encoded.count(b"{")
    if containers > MAX_JSON_CONTAINERS:
        raise TooLarge(f"{name} has {containers} lists and objects; at most {MAX_JSON_CONTAINERS} are read")
    try:
        return load_json(encoded)
    except RepeatedKey as error:
        raise UnreadableInput(f"{sanitized(error.key)} is given twice in a JSON object") from None
    except ValueError as error:
        raise UnreadableInput(f"{name} is not valid JSON") from error


def list_of_texts(value: str) -> list[str] | None:
    """The value of a text that is a JSON list of texts; None for every other text."""
    try:
        entries = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return entries if isinstance(entries, list) and all(isinstance(entry, str) for entry in entries) else None


def text(name: str, value: Any) -> Any:
    """Bytes of a form part or a gRPC input as text; a JSON value as it is, if UTF-8 can write it."""
    if not isinstance(value, str | bytes | bytearray):
        return value
    if len(value) > MAX_TEXT_BYTES:
        raise TooLarge(f"{name} has a length of {len(value)}; at most {MAX_TEXT_BYTES} bytes are read", name)
    try:
        # Half of a surrogate pair is valid in JSON, and not in the UTF-8 that tokenizers read.
        return (value.encode() if isinstance(value, str) else value).decode()
    except UnicodeError as error:
        raise UnreadableInput(f"{name} is not UTF-8 text", name) from error


def boolean(name: str, value: Any) -> bool:
    """True or false, as JSON or as text."""
    given = text(name, value)
    words = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(given, bool):
        return given
    if isinstance(given, str) and given.strip().lower() in words:
        return words[given.strip().lower()]
    raise InvalidOption(f"{name} must be true or false", name)


def sanitized(name: str) -> str:
    """A field's name for a message; the name of a misread field may be anything, even the image."""
    return f"'{name}'" if _NAME.fullmatch(name) else "(its name is not an identifier)"


def _check_count(name: str, contents: Mapping[str, Any], what: str) -> None:
    if len(contents) > MAX_FIELDS:
        raise TooLarge(f"{name} has {len(contents)} {what}; at most {MAX_FIELDS} are read")


def _encoded(value: str | bytes | bytearray) -> bytes | bytearray:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
