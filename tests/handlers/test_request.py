"""Properties of what a request is understood to say."""

import base64
import json
import time
from typing import Any

import numpy as np
import pytest

from handlers.exchange import Exchange
from handlers.request import OPTIONS, read_request
from prelim.errors import InputError
from prelim.generation.options import GenerationOptions
from tests.handlers.frontend import HTTP

IMAGE = b"\x89PNG {not JSON}"
DEFAULTS = GenerationOptions(num_beams=2, max_new_tokens=60)
NUM_FEATURES = 49 * 576
JSON_BODY = {"body": {"content-type": "application/json"}}
TURNS = [{"role": "user", "content": "What is seen?"}]


def read(row: dict[str, Any], headers: dict[str, Any] | None = None) -> Exchange:
    """The exchange of an item that came over HTTP."""
    return read_request(row, HTTP | (headers or {}), DEFAULTS, NUM_FEATURES)


def read_json(**fields: Any) -> Exchange:
    """The exchange of a JSON body."""
    return read({"body": bytearray(json.dumps(fields).encode())}, JSON_BODY)


OPTIONS_IN_EVERY_WAY = {
    "multipart": {"image": bytearray(IMAGE), "prompt": b"Why?", "num_beams": b"3", "stop": b"END", "seed": b"5"},
    "JSON": {
        "body": json.dumps(
            {
                "image": base64.b64encode(IMAGE).decode(),
                "prompt": "Why?",
                "options": {"num_beams": 3, "stop": ["END"], "seed": 5},
            }
        ).encode()
    },
    "JSON that the server has parsed": {
        "body": {
            "image": base64.b64encode(IMAGE).decode(),
            "prompt": "Why?",
            "options": {"num_beams": 3, "stop": "END", "seed": 5},
        }
    },
    "gRPC data": {"data": IMAGE, "prompt": b"Why?", "options": b'{"num_beams": 3, "stop": ["END"]}', "seed": b"5"},
}


@pytest.mark.parametrize("row", OPTIONS_IN_EVERY_WAY.values(), ids=OPTIONS_IN_EVERY_WAY)
def test_every_way_of_writing_a_request_means_the_same(row: dict[str, Any]) -> None:
    """Image, prompt and options mean the same in multipart, JSON and gRPC; what is not named is the default."""
    request = read(row).request

    assert request.image == IMAGE
    assert request.prompt == "Why?"
    assert request.options == GenerationOptions(num_beams=3, max_new_tokens=60, stop=("END",), seed=5)


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "text/plain", ""])
def test_raw_body_is_an_image_whatever_its_content_type(content_type: str) -> None:
    """A body that is not JSON is the image, and the options are the model's."""
    request = read({"body": bytearray(IMAGE)}, {"body": {"content-type": content_type}}).request

    assert (request.image, request.options) == (IMAGE, DEFAULTS)


def test_json_needs_no_content_type() -> None:
    """A body that begins with a brace is JSON, because no image does."""
    body = json.dumps({"image": base64.b64encode(IMAGE).decode()}).encode()

    assert read({"body": b"  " + body}).request.image == IMAGE


def test_image_features_become_an_array() -> None:
    """Pre-extracted features are float32 of shape (num_tokens, width), from JSON and from a text part."""
    values = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]]
    for exchange in (read_json(image_features=values), read({"image_features": json.dumps(values).encode()})):
        features = exchange.request.image_features

        assert features is not None
        assert features.dtype == np.float32
        assert features.tolist() == values


def test_messages_are_passed_on() -> None:
    """A conversation is a tuple of turns."""
    exchange = read({"image": IMAGE, "messages": json.dumps(TURNS).encode()})

    assert exchange.request.messages == tuple(TURNS)


def test_stream_and_token_ids_are_taken_from_both_places() -> None:
    """`stream` and `return_token_ids` can be options or fields."""
    image = base64.b64encode(IMAGE).decode()
    apart = read_json(image=image, stream=True, return_token_ids=True, options={"num_beams": 1})
    among = read_json(image=image, options={"num_beams": 1, "stream": True, "return_token_ids": True})

    assert (apart.stream, apart.return_token_ids) == (among.stream, among.return_token_ids) == (True, True)


def test_json_null_is_the_same_as_nothing() -> None:
    """A field that is null is a field that is not there."""
    exchange = read_json(image=base64.b64encode(IMAGE).decode(), prompt=None, image_features=None, options=None)

    assert exchange.request.prompt is None
    assert exchange.request.options == DEFAULTS


def test_data_url_is_base64_too() -> None:
    """Browsers write an image as a data URL."""
    url = "data:image/png;base64," + base64.b64encode(IMAGE).decode()

    assert read_json(image=url).request.image == IMAGE


WRONG = {
    "nothing": ({}, 400, "there is no image"),
    "an empty body": ({"body": bytearray()}, 400, "there is no image"),
    "an unknown field": ({"image": IMAGE, "beams": b"3"}, 400, "unknown field 'beams'; known: image, .*num_beams"),
    "a field named like an image": ({"\x89PNG\n": b""}, 400, r"unknown field \(its name is not an identifier\)"),
    "an unknown option": ({"image": IMAGE, "options": b'{"beams": 3}'}, 400, "unknown option 'beams'; known: .*stream"),
    "an option out of range": ({"image": IMAGE, "num_beams": b"99"}, 400, "num_beams is 99; allowed: 1 to 16"),
    "an option twice": ({"image": IMAGE, "num_beams": b"2", "options": b'{"num_beams": 2}'}, 400, "given twice"),
    "two images": ({"image": IMAGE, "data": IMAGE}, 400, "'image' is given twice"),
    "image and features": ({"image": IMAGE, "image_features": b"[[1]]"}, 400, "both given"),
    "ragged features": ({"image_features": b"[[1, 2], [3]]"}, 400, "not an array of numbers"),
    "features in words": ({"image_features": b'[["a"]]'}, 400, "not an array of numbers"),
    "features in texts": ({"image_features": b'[["1", "2"]]'}, 400, "not an array of numbers"),
    "features of booleans": ({"image_features": b"[[true, false]]"}, 400, "not an array of numbers"),
    "features that are objects": ({"image_features": b'{"a": 1}'}, 400, "not an array of numbers"),
    "infinite features": ({"image_features": b"[[Infinity]]"}, 400, "finite"),
    "huge features": ({"image_features": b"[[1" + b"0" * 400 + b"]]"}, 400, "not an array|finite"),
    "deep features": ({"image_features": b"[" * 9_000}, 400, "not valid JSON"),
    "four-dimensional features": ({"image_features": b"[[[[1]]]]"}, 400, r"shape \(1, 1, 1, 1\)"),
    "no features": ({"image_features": b"[]"}, 400, r"shape \(0,\)"),
    "prompt and messages": ({"image": IMAGE, "prompt": b"?", "messages": json.dumps(TURNS)}, 400, "both given"),
    "a long prompt": ({"image": IMAGE, "prompt": b"x" * 8001}, 413, "8001 characters; at most 8000"),
    "a prompt in Latin-1": ({"image": IMAGE, "prompt": "Größe".encode("latin-1")}, 400, "prompt is not UTF-8"),
    "messages of another shape": ({"image": IMAGE, "messages": b'[{"role": "user"}]'}, 400, "messages must be"),
    "too many messages": ({"image": IMAGE, "messages": json.dumps(TURNS * 65)}, 413, "65 entries"),
    "options that are a list": ({"image": IMAGE, "options": b"[1]"}, 400, "options is of type list"),
    "options that are not JSON": ({"image": IMAGE, "options": b"num_beams=3"}, 400, "options is not valid JSON"),
    "a stream of maybe": ({"image": IMAGE, "stream": b"maybe"}, 400, "stream must be true or false"),
    "JSON that is a list": ({"body": b"[1]", "num_beams": b"1"}, 400, "there is no image|list"),
    "JSON that ends early": ({"body": b'{"image": "'}, 400, "the body is not valid JSON"),
    "a JSON member twice": (
        {"body": b'{"image": "aGk=", "num_beams": 2, "num_beams": 3}'},
        400,
        "num_beams' is given twice",
    ),
    "an image twice in JSON": ({"body": b'{"image": "aGk=", "image": "aGk="}'}, 400, "given once|given twice"),
    "an option twice in options": (
        {"image": IMAGE, "options": b'{"seed": 2, "seed": 3}'},
        400,
        "'seed' is given twice",
    ),
    "no base64": ({"body": b'{"image": "a patient name"}'}, 400, "not valid base64"),
    "a number for an image": ({"body": b'{"image": 5}'}, 400, "must be base64 text"),
    "a number for a prompt": ({"body": b'{"image": "aGk=", "prompt": 5}'}, 400, "prompt is of type int"),
}


@pytest.mark.parametrize(("row", "status", "message"), WRONG.values(), ids=WRONG)
def test_wrong_request_is_explained(row: dict[str, Any], status: int, message: str) -> None:
    """A request that cannot be understood gets a 4xx that names the field and what is allowed."""
    with pytest.raises(InputError, match=message) as caught:
        read(row, JSON_BODY if row.get("body", b"").startswith(b"[") else None)

    assert caught.value.status == status
    assert "\n" not in str(caught.value)
    assert "patient" not in str(caught.value)


BASE64 = base64.b64encode(bytes(range(256))).decode()
LINES = "\\r\\n".join(BASE64[start : start + 76] for start in range(0, len(BASE64), 76))


@pytest.mark.parametrize(
    "written",
    [
        LINES,
        LINES.replace("\\r\\n", "\r\n"),
        LINES.replace("\\r\\n", "\\u000D\\u000a"),
        BASE64.replace("+", "\\u002B").replace("/", "\\/").replace("=", "\\u003d"),
        BASE64.replace("+", "\\u002b").replace("/", "\\u002F").replace("=", "\\u003D"),
    ],
    ids=["escaped lines", "lines", "escaped digits", "as .NET writes it", "lower case"],
)
def test_base64_may_be_escaped_and_have_lines(written: str) -> None:
    """Every way in which JSON encoders write base64 text, with MIME's line breaks, gives the same bytes."""
    assert read({"body": f'{{"image": "{written}"}}'.encode()}).request.image == bytes(range(256))


@pytest.mark.parametrize(
    ("written", "stop"),
    [
        (b'["x", "END]"]', ("x", "END]")),
        (b'["Impression:"]', ("Impression:",)),
        (b'["' + b'", "'.join([b"x" * 60] * 16) + b'"]', ("x" * 60,) * 16),
        (b"[]", ()),
        (b"[END]", ("[END]",)),
        (b"[1]", ("[1]",)),
        (b'["x"', ('["x"',)),
    ],
    ids=str,
)
def test_stop_of_a_form_can_be_a_json_list(written: bytes, stop: tuple[str, ...]) -> None:
    """In a form, a JSON list of texts is a list; anything else is a text as it is. In JSON a text is always a text."""
    image = base64.b64encode(IMAGE).decode()

    assert read({"image": IMAGE, "stop": written}).request.options.stop == stop
    if len(written) <= 64:
        assert read_json(image=image, stop=written.decode()).request.options.stop == (written.decode(),)


FORM = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("row", "headers", "message"),
    [
        ({"body": IMAGE}, {"url_path": "chest.dcm"}, "path continues after the version"),
        (
            {"image": IMAGE},
            FORM | {"content-length": "9000"},
            f"{9000 - len(IMAGE)} of 9000 bytes .* a name was given twice",
        ),
        (
            {"image": IMAGE, **dict.fromkeys(OPTIONS[:12], b"1")},
            FORM | {"content-length": "9000"},
            "a name was given twice",
        ),
        ({}, FORM | {"Content-Length": "2000"}, "in none of its 0 fields: .* boundary"),
    ],
    ids=["path", "two images", "two images and options", "no part"],
)
def test_what_the_frontend_leaves_out_is_refused(row: dict[str, Any], headers: dict[str, str], message: str) -> None:
    """The rest of a path is not ignored, and neither are form parts that TorchServe drops. The path is not quoted."""
    with pytest.raises(InputError, match=message) as caught:
        read(row, headers)

    assert "chest" not in str(caught.value)


def test_form_with_long_headers_is_read() -> None:
    """A form may have file names, any boundary, and no length."""
    for headers in (FORM | {"Content-Length": str(len(IMAGE) + 1500)}, FORM, FORM | {"Content-Length": "many"}):
        assert read({"image": bytearray(IMAGE)}, headers).request.image == IMAGE
    several = {"image": IMAGE, "seed": b"1", "top_k": b"2"}
    length = sum(map(len, several.values())) + 1500 + 2 * 200
    assert read(several, FORM | {"Content-Length": str(length)}).request.options.seed == 1


def test_query_of_invocations_is_read() -> None:
    """/invocations passes its query string as fields; the name of the model there is TorchServe's own."""
    row = {"model_name": b"demo", "num_beams": b"4", "body": bytearray(IMAGE)}

    assert read_request(row, {"Host": "127.0.0.1"}, DEFAULTS, NUM_FEATURES).request.options.num_beams == 4
    with pytest.raises(InputError, match="unknown field 'model_name'"):
        read(row)
    with pytest.raises(InputError, match="unknown field 'model_name'"):
        read_request(row, {name: {"content-type": ""} for name in row}, DEFAULTS, NUM_FEATURES)


def test_explanations_are_refused() -> None:
    """TorchServe's /explanations is not offered, and says so."""
    with pytest.raises(InputError, match="/predictions"):
        read({"body": IMAGE}, {"explain": "True"})


def test_grpc_input_cannot_pass_for_a_header() -> None:
    """A gRPC input named like an HTTP header leaves its request a gRPC request."""
    headers = {name: {"content-type": ""} for name in ("image", "url_path")}
    with pytest.raises(InputError, match="unknown field 'url_path'"):
        read_request({"image": IMAGE, "url_path": b""}, headers, DEFAULTS, NUM_FEATURES)

    assert read_request({"image": IMAGE}, {"image": {"content-type": ""}}, DEFAULTS, NUM_FEATURES).grpc
    assert not read({"image": IMAGE}).grpc


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [("t={now}", 2000), ("{now}", 2000), ("t=yesterday", 0), ("t=12", 0), ("t=99999999999", 0), ("nan", 0)],
)
def test_wait_in_front_of_the_server_is_counted(value: str, milliseconds: float) -> None:
    """X-Request-Start tells how long a request waited before the handler saw it; nonsense tells nothing."""
    header = {"X-Request-Start": value.format(now=time.time() - 2)}

    assert read({"image": IMAGE}, header).queued_ms == pytest.approx(milliseconds, abs=500)
