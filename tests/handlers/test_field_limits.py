"""Limits of requests hold on both of their sides, and settings have their documented defaults."""

import base64
import json
import time
from typing import Any

import numpy as np
import pytest

from handlers import fields, request
from handlers.exchange import Exchange
from handlers.fields import boolean, collect_fields, json_object, json_value, max_features_bytes, sanitized, text
from handlers.request import read_request
from handlers.route import is_grpc
from handlers.settings import Settings
from prelim.errors import ArchiveError, InputError, InvalidOption, TooLarge, UnreadableInput
from prelim.generation.options import GenerationOptions
from tests.handlers.frontend import HTTP

IMAGE = b"\x89PNG"


def read(row: dict[str, Any], headers: dict[str, Any] | None = None) -> Exchange:
    """The exchange of an item that came over HTTP."""
    return read_request(row, HTTP | (headers or {}), GenerationOptions(), 6)


def test_limits_are_the_documented_ones() -> None:
    """Numbers that docs and messages state."""
    assert (fields.MAX_FIELDS, fields.MAX_TEXT_BYTES, fields.BYTES_PER_NUMBER) == (48, 131072, 40)
    assert fields.MAX_JSON_CONTAINERS == 10_000
    assert max_features_bytes(10) == 131072 + 400
    assert (request.MAX_PROMPT_CHARACTERS, request.MAX_MESSAGES, request.MAX_OPTION_CHARACTERS) == (8000, 64, 256)
    assert request.MAX_QUEUE_S == 3600


def test_number_of_fields() -> None:
    """48 are read and 49 are not, in a request and in a JSON object."""
    assert len(collect_fields({f"f{i}": b"x" for i in range(48)}, {}, 100)) == 48
    with pytest.raises(TooLarge, match="the request has 49 fields; at most 48"):
        collect_fields({f"f{i}": b"x" for i in range(49)}, {}, 100)
    assert len(json_object("options", {f"{i}": 0 for i in range(48)})) == 48
    with pytest.raises(TooLarge, match="options has 49 members; at most 48"):
        json_object("options", {f"{i}": 0 for i in range(49)})


def test_bytes_and_brackets_of_json() -> None:
    """The limit itself is read, and one more is not."""
    assert json_value("x", b"[" + b"1" * 8 + b"]", 10) == [11111111]
    with pytest.raises(TooLarge, match="x has 11 bytes of JSON, an image not counted; at most 10"):
        json_value("x", b"[" + b"1" * 9 + b"]", 10)
    assert len(json_value("x", b"[" + b",".join([b"[]"] * 9_999) + b"]")) == 9_999
    for one in (b"[]", b"{}"):
        with pytest.raises(TooLarge, match="x has 10001 lists and objects; at most 10000"):
            json_value("x", b"[" + b",".join([one] * 10_000) + b"]")
    assert json_value("x", 5) == 5
    assert json_value("x", "é" * 0 + '"é"', 4) == "é"
    with pytest.raises(TooLarge):
        json_value("x", '"é"', 3)


def test_length_of_texts() -> None:
    """128 kB of a text are read."""
    assert text("x", b"a" * 131072) == "a" * 131072
    with pytest.raises(TooLarge, match="x has a length of 131073"):
        text("x", b"a" * 131073)
    assert text("x", bytearray(b"a")) == text("x", "a") == "a"
    assert text("x", 5) == 5
    for broken in (b"\xff", "\ud800"):
        with pytest.raises(UnreadableInput, match="x is not UTF-8"):
            text("x", broken)


@pytest.mark.parametrize(
    ("given", "value"),
    [(True, True), (False, False), ("true", True), (b" TRUE ", True), ("1", True), (b"false", False), ("0", False)],
)
def test_booleans(given: Any, value: bool) -> None:
    """As JSON and as text."""
    assert boolean("stream", given) is value


@pytest.mark.parametrize("given", [1, 0, None, "yes", b"", [True]])
def test_what_is_not_a_boolean(given: Any) -> None:
    """Other values are refused by the name of the field."""
    with pytest.raises(InvalidOption, match="stream must be true or false"):
        boolean("stream", given)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("prompt", "'prompt'"),
        ("_x-1", "'_x-1'"),
        ("a" * 32, f"'{'a' * 32}'"),
        *((bad, "(its name is not an identifier)") for bad in ("a" * 33, "1a", "", "a b", "a\n", "-a")),
    ],
)
def test_only_identifiers_are_repeated(name: str, shown: str) -> None:
    """The name of a misread field may be anything."""
    assert sanitized(name) == shown


@pytest.mark.parametrize("body", [b' \n{"prompt": "a"}', '\t{"prompt": "a"}', {"prompt": "a"}])
def test_bodies_that_are_json(body: Any) -> None:
    """A brace, or a body that the server has parsed."""
    assert collect_fields({"body": body}, {}, 100) == {"prompt": "a"}


@pytest.mark.parametrize(
    ("content_type", "is_json"),
    [("application/json", True), (" Application/JSON ; charset=utf-8", True), ("text/json", False), ("", False)],
)
def test_content_type_of_json(content_type: str, is_json: bool) -> None:
    """By the media type alone; anything else is an image unless it begins with a brace."""
    headers = {"body": {"content-type": content_type}}
    if is_json:
        with pytest.raises(UnreadableInput, match="type list"):
            collect_fields({"body": b"[1]"}, headers, 100)
    else:
        assert collect_fields({"body": b"[1]"}, headers, 100) == {"image": b"[1]"}


@pytest.mark.parametrize("space", ["", " ", "\n\t"])
def test_base64_in_json(space: str) -> None:
    """With spaces around the colon, escaped slashes, line ends or a data URL."""
    image = bytes(range(256)) * 3
    encoded = base64.b64encode(image).decode()
    assert "/" in encoded
    for written in (
        encoded,
        encoded.replace("/", r"\/"),
        base64.encodebytes(image).decode().replace("\n", r"\n"),
        "data:image/png;base64," + encoded,
    ):
        body = f'{{"image"{space}:{space}"{written}", "prompt": "a"}}'
        assert collect_fields({"body": body.encode()}, {}, 100) == {"image": image, "prompt": "a"}
        assert collect_fields({"body": bytearray(body.encode())}, {}, 100)["image"] == image
    assert collect_fields({"body": {"image": encoded}}, {}, 100) == {"image": image}
    assert collect_fields({"body": b'{"image": null, "prompt": "a"}'}, {}, 100) == {"prompt": "a"}


@pytest.mark.parametrize("body", [b'{"image": "a"}', b'{"image": "YQ"}', b'{"image": "Y Q="}', b'{"image": "YQ==x"}'])
def test_what_is_not_base64(body: bytes) -> None:
    """Wrong length, padding or characters."""
    with pytest.raises(UnreadableInput, match="image is not valid base64"):
        collect_fields({"body": body}, {}, 100)


def turns(number: int, characters: int) -> bytes:
    """A conversation."""
    return json.dumps([{"role": "user", "content": "x" * characters}] * number).encode()


@pytest.mark.parametrize(
    ("field", "largest", "message"),
    [
        ("prompt", (b"x" * 8000, b"x" * 8001), "prompt has 8001 characters"),
        ("messages", (turns(64, 1), turns(65, 1)), "messages has 65 entries"),
        ("messages", (turns(2, 4000), turns(2, 4001)), "messages has 8002 characters"),
        ("stop", (b"x" * 64, b"x" * 257), "stop has 257 characters; at most 256"),
        ("seed", (b"0" * 256, b"0" * 257), "seed has 257 characters"),
    ],
)
def test_texts_of_a_request(field: str, largest: tuple[bytes, bytes], message: str) -> None:
    """The longest one is read, a longer one is not."""
    read({"image": IMAGE, field: largest[0]})
    with pytest.raises(InputError, match=message):
        read({"image": IMAGE, field: largest[1]})


def test_stop_texts_of_a_request() -> None:
    """16 are read; only stop may be a list."""

    def options(stop: Any) -> GenerationOptions | None:
        return read({"body": json.dumps({"image": base64.b64encode(IMAGE).decode(), "stop": stop})}).request.options

    assert options(["x"] * 16) == GenerationOptions(stop=("x",) * 16)
    with pytest.raises(InvalidOption, match="stop has 17 entries; at most 16"):
        options(["x"] * 17)
    with pytest.raises(
        InvalidOption, match="stop is of type list; only stop and banned_phrases can be lists, of texts"
    ):
        options([1])


def test_context_of_a_request() -> None:
    """From a form, gRPC or JSON; bad values name the field."""
    words = {"indication": "cough", "age": "64", "sex": "female"}
    body = json.dumps({"image": base64.b64encode(IMAGE).decode(), "indication": "cough", "age": 64, "sex": "F"})
    for row in ({"image": IMAGE, "indication": b"cough", "age": b"64", "sex": b"F"}, {"body": body}):
        assert read(row).request.context_words == words
    assert read({"image": IMAGE}).request.context_words == {}
    with pytest.raises(InvalidOption, match="age must be whole years"):
        read({"image": IMAGE, "age": b"064Y"})


def test_grammars_of_a_request() -> None:
    """A text that begins with a bracket is an expression; as long as 8192 characters, and a schema in every form."""
    schema = '{"type":"object"}'
    as_member = json.dumps({"image": base64.b64encode(IMAGE).decode(), "grammar": json.loads(schema)})
    rows = (
        ({"image": IMAGE, "grammar": b'["a"]'}, '["a"]'),
        ({"image": IMAGE, "grammar": b"[" + b"x" * 8190 + b"]"}, "[" + "x" * 8190 + "]"),
        ({"image": IMAGE, "grammar": schema.encode()}, schema),
        ({"image": IMAGE, "options": b'{"grammar": {"type": "object"}}'}, schema),
        ({"body": as_member}, schema),
    )
    for row, grammar in rows:
        assert read(row).request.options == GenerationOptions(grammar=grammar)
    with pytest.raises(InvalidOption, match="at most 8192 characters"):
        read({"image": IMAGE, "grammar": b"x" * 8193})


@pytest.mark.parametrize("name", ["stream", "return_token_ids", "return_attention"])
def test_switches_are_read_once(name: str) -> None:
    """Off unless asked for, as a field or among the options; not both."""
    exchange = read({"image": IMAGE})
    switches = (exchange.stream, exchange.return_token_ids, exchange.request.return_attention, exchange.chunked)
    assert switches == (False,) * 4
    for row in ({name: b"true"}, {"options": json.dumps({name: True}).encode()}):
        found = read({"image": IMAGE, **row})
        values = {
            "stream": found.stream,
            "return_token_ids": found.return_token_ids,
            "return_attention": found.request.return_attention,
        }
        assert [key for key, value in values.items() if value] == [name]
    with pytest.raises(InvalidOption, match=f"{name} is given twice"):
        read({"image": IMAGE, name: b"true", "options": json.dumps({name: True}).encode()})


@pytest.mark.parametrize(
    ("waited", "counted"), [("t={:.3f}", True), ("{:.3f}", True), ("t=x", False), ("t=inf", False), ("t=nan", False)]
)
def test_wait_before_the_handler(waited: str, counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Milliseconds since X-Request-Start, up to an hour; anything else counts as none."""
    monkeypatch.setattr(time, "time", lambda: 10_000.0)
    for seconds, known in ((0.0, True), (2.5, True), (3600.0, True), (3600.1, False), (-0.1, False)):
        found = read({"image": IMAGE}, {"X-REQUEST-START": waited.format(10_000 - seconds)}).queued_ms
        assert found == pytest.approx(1000 * seconds if known and counted else 0.0, abs=1)
    assert read({"image": IMAGE}, {"x-request-start": 5}).queued_ms == 0
    assert read({"image": IMAGE}, {"x-other": "1"}).queued_ms == 0


def test_http_has_a_header_of_text() -> None:
    """What TorchServe lists for inputs of gRPC are dictionaries."""
    assert is_grpc({})
    assert is_grpc({"image": {"content-type": ""}})
    assert not is_grpc({"image": {"content-type": ""}, "host": "h"})


@pytest.mark.parametrize(
    "value", [[1.0, 2.0], [[1.0], [2.0]], [[float("1e-40")]], "[1, 2]", b"[[1, 2, 3]]", np.ones((2, 3)).tolist()]
)
def test_features_of_one_or_two_dimensions(value: Any) -> None:
    """A vector, or a row for each token."""
    row = {"body": {"image_features": value}} if isinstance(value, list) else {"image_features": value}
    features = read(row).request.image_features
    assert features is not None
    assert features.dtype == np.float32


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, (8, 10, False, 300, None, False, 120)),
        ({"prelim": None}, (8, 10, False, 300, None, False, 120)),
        (
            {
                "prelim": {
                    "steps_per_handle": 1,
                    "heartbeat_s": 1,
                    "request_deadline_s": 1,
                    "max_cache_mb": 1,
                    "threads": 1,
                }
            },
            (1, 1, False, 1, 1, False, 120),
        ),
        ({"continuousBatching": True, "responseTimeout": 1, "maxWorkers": 1}, (8, 10, False, 300, None, True, 1)),
        ({"continuousBatching": "true", "maxWorkers": 2}, (8, 10, True, 300, None, False, 120)),
        ({"maxWorkers": 2, "prelim": {"share_weights": False}}, (8, 10, False, 300, None, False, 120)),
    ],
)
def test_settings_and_their_defaults(config: dict[str, Any] | None, expected: tuple[Any, ...]) -> None:
    """What model-config.yaml does not say has the documented value; 1 is the least that is allowed."""
    s = Settings.read(config)
    found = (s.steps_per_handle, s.heartbeat_s, s.share_weights, s.request_deadline_s, s.max_cache_mb, s.in_flight)
    assert (*found, s.response_timeout) == expected


@pytest.mark.parametrize(
    "name", ["heartbeat_s", "request_deadline_s", "max_cache_mb", "max_new_tokens", "steps_per_handle", "threads"]
)
@pytest.mark.parametrize("value", [0, 0.99, True, "1"])
def test_settings_below_one(name: str, value: Any) -> None:
    """Numbers of at least 1."""
    with pytest.raises(ArchiveError, match=f"{name} is {value!r}; it must be a number of at least 1"):
        Settings.read({"prelim": {name: value}})
