"""Whatever its size, a request is read or refused within 2 s of CPU time."""

import base64
import contextlib
import json
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from handlers.completion import read_completion
from handlers.exchange import Exchange
from handlers.fields import MAX_FIELDS, MAX_JSON_CONTAINERS, MAX_TEXT_BYTES, max_features_bytes
from handlers.request import INPUTS, MAX_PROMPT_CHARACTERS, OPTIONS, read_request
from prelim.errors import InputError
from prelim.generation.options import GenerationOptions
from tests.handlers.fake_generator import FakeGenerator
from tests.handlers.frontend import HTTP

SHAPE = (257, 1408)
"""Of ViT-g's features, the largest of the five systems."""

MAX_CPU_S = 2.0
MAX_GROWTH_KB = 600 * 1024
"""Of the process's peak memory; a body of 60 MB may be copied a few times."""
MAX_REQUEST = 64 * 2**20
IMAGE = b"\x89PNG" + bytes(100)


def read(row: dict[str, Any]) -> Exchange:
    """The exchange of an HTTP item, which must not take long."""
    with bounded():
        return read_request(row, HTTP, GenerationOptions(), SHAPE[0] * SHAPE[1])


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """What must take neither long nor much memory."""
    began, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        yield
    finally:
        assert time.process_time() - began < MAX_CPU_S
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MAX_GROWTH_KB


def filled(unit: bytes, size: int = 60_000_000, start: bytes = b"[", end: bytes = b"0]") -> bytes:
    """JSON of a size that repeats a unit."""
    return start + unit * (size // len(unit)) + end


def body(member: bytes) -> dict[str, Any]:
    """A JSON body with an image and another member."""
    return {"body": bytearray(b'{"image": "%s", %s}' % (base64.b64encode(IMAGE), member))}


LARGEST = max_features_bytes(SHAPE[0] * SHAPE[1]) - 1000
# Made by their tests: they have a gigabyte, which every process of the tests would hold.
OVERSIZE: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "60,000 parts": (lambda: {f"part{i}": b"" for i in range(60_000)}, "60000 fields; at most 48"),
    "100,000 gRPC inputs": (lambda: {"data": IMAGE} | {f"{i}": b"x" for i in range(100_000)}, "100001 fields"),
    "a JSON object of a million members": (lambda: body(b",".join(b'"%d":0' % i for i in range(500_000))), "members"),
    "options of many members": (
        lambda: body(b'"options": {' + b",".join(b'"%d":0' % i for i in range(99)) + b"}"),
        "members",
    ),
    "60 MB of lists": (lambda: body(b'"messages": ' + filled(b"[],")), "bytes of JSON"),
    "60 MB of objects": (lambda: body(b'"options": ' + filled(b'{"":0},')), "bytes of JSON"),
    "60 MB of escapes": (lambda: body(b'"prompt": "' + rb"\u4e00" * 10_000_000 + b'"'), "bytes of JSON"),
    "60 MB of spaces": (lambda: body(b" " * 60_000_000), "bytes of JSON"),
    "60 MB of keys of images": (lambda: {"body": b'{"image" ' * 6_000_000}, "bytes of JSON"),
    "20 million images in JSON": (
        lambda: {"body": b'{"images": [' + b'"",' * 20_000_000 + b'""]}'},
        "at most 8 are read",
    ),
    "20 million images in a form": (lambda: {"images": filled(b'"",', end=b'""]')}, "at most 8 are read"),
    "images that are never closed": (lambda: {"body": b'{"images": ["' + b"A" * 60_000_000}, "bytes of JSON"),
    "lists as large as features": (lambda: body(b'"image_features": ' + filled(b"[0],", LARGEST)), "lists and objects"),
    "texts as large as features": (lambda: body(b'"messages": ' + filled(b'"",', LARGEST)), "entries; at most 64"),
    "numbers as large as features": (lambda: body(b'"stop": ' + filled(b"1.5,", LARGEST)), "entries; at most 16"),
    "a prompt as large as features": (lambda: body(b'"prompt": "' + b"x" * LARGEST + b'"'), "at most 131072 bytes"),
    "a number as large as features": (lambda: body(b'"seed": ' + b"9" * LARGEST), "not valid JSON"),
    "a fraction as large as features": (lambda: body(b'"temperature": -0.' + b"9" * LARGEST), "temperature is -1"),
    "a number in a text": (lambda: {"image": IMAGE, "seed": b"0" * 100_000 + b"1"}, "100001 characters; at most 256"),
    "a number in a JSON text": (lambda: body(b'"seed": "' + b"0" * 5000 + b'1"'), "5001 characters; at most 256"),
    "a deep option": (lambda: body(b'"top_p": ' + b"[" * 900 + b"]" * 900), "top_p is of type list"),
    "an option that is an object": (lambda: body(b'"top_p": {"a": 1}'), "top_p is of type dict"),
    "a prompt of 60 MB": (lambda: {"image": IMAGE, "prompt": b"x" * 60_000_000}, "at most 131072 bytes"),
    "messages of 60 MB": (lambda: {"image": IMAGE, "messages": filled(b"{},")}, "bytes of JSON"),
    "a million messages": (
        lambda: {"image": IMAGE, "messages": b"[" + b"0," * 60_000 + b"0]"},
        "60001 entries; at most 64",
    ),
    "features of 60 MB": (lambda: {"image_features": filled(b"1.5,")}, "bytes of JSON"),
    "half of a surrogate pair": (lambda: body(rb'"prompt": "\ud800"'), "prompt is not UTF-8"),
    "half a pair in a stop text": (lambda: body(rb'"stop": ["\ud800"]'), "stop is not UTF-8"),
    "half a pair in a message": (
        lambda: body(rb'"messages": [{"role": "user", "content": "\udfff"}]'),
        "messages is not UTF-8",
    ),
    "two images in one object": (lambda: body(b'"image": "aGk="'), "'image' is given twice"),
    "an image among the options": (lambda: {"body": b'{"options": {"image": "aGk="}}'}, "unknown option|given once"),
}


@pytest.mark.parametrize(("make", "message"), OVERSIZE.values(), ids=OVERSIZE)
def test_oversize_request_is_refused_quickly(make: Callable[[], dict[str, Any]], message: str) -> None:
    """A request that is larger than any that makes sense is refused with the limit, before it is parsed."""
    row = make()
    with pytest.raises(InputError, match=message) as caught:
        read(row)

    assert len(str(caught.value)) < 600


def test_largest_image_in_json_is_read() -> None:
    """An image that fills max_request_size as base64 is read, also with escaped slashes and lines of 76 characters."""
    image = np.random.default_rng(0).bytes(MAX_REQUEST // 4 * 3 - 4 * 2**20)
    encoded = base64.b64encode(image)
    lines = base64.encodebytes(image).replace(b"\n", rb"\r\n")
    for text in (encoded, encoded.replace(b"/", rb"\/"), lines):
        request = read({"body": bytearray(b'{"prompt": "Why?", "image": "%s", "seed": 3}' % text)}).request

        assert request.image == image
        assert (request.prompt, request.options and request.options.seed) == ("Why?", 3)


@pytest.mark.parametrize("indent", [None, 4])
def test_largest_features_are_read(indent: int | None) -> None:
    """Features of the model's shape are read with all digits of float64, alone and in a body, indented or not."""
    features = np.random.default_rng(0).normal(size=SHAPE) * 1e-300
    text = json.dumps(features.tolist(), indent=indent)
    for row in ({"image_features": text.encode()}, {"body": b'{"image_features": %s}' % text.encode()}):
        read_features = read(row).request.image_features

        assert read_features is not None
        assert read_features.shape == SHAPE


def test_limits_leave_room_for_every_legal_request() -> None:
    """All inputs and options fit into MAX_FIELDS, and the longest prompt into its limits however JSON writes it."""
    assert len(INPUTS) + len(OPTIONS) <= MAX_FIELDS
    for character in ("\U0001f600", "[", "\\", "\x01"):
        prompt = character * MAX_PROMPT_CHARACTERS
        for text in (json.dumps({"image": "aGk=", "prompt": prompt}), json.dumps({"prompt": prompt, "image": "aGk="})):
            assert len(text) < MAX_TEXT_BYTES
            assert text.count("[") < MAX_JSON_CONTAINERS
            assert read({"body": text.encode()}).request.prompt == prompt


URL = b'{"type": "image_url", "image_url": {"url": "data:image/png;base64,%s"}},'
COMPLETIONS: dict[str, tuple[Callable[[], bytes], str]] = {
    "300,000 images": (lambda: URL % b"aGk=" * 300_000, "more than 8 images"),
    "60 MB of beginnings of an image": (lambda: b'"url": ' * 8_000_000, "bytes of JSON"),
    "60 MB of spaces before an image": (lambda: b'"url"' + b" " * 60_000_000, "bytes of JSON"),
    "an image that is not base64": (lambda: URL % (b"!" * 60_000_000), "not valid base64"),
    "an image of escapes": (lambda: URL % (rb"\n" * 30_000_000) + b'"",', "is empty"),
    "60 MB of text": (lambda: b'{"type": "text", "text": "%s"},' % (b"a" * 60_000_000), "bytes of JSON"),
    "60 MB of parts": (lambda: b"{}," * 20_000_000, "bytes of JSON"),
}


@pytest.mark.parametrize("name", COMPLETIONS)
def test_large_completions_are_refused_at_once(name: str) -> None:
    """The same in OpenAI's format."""
    make, message = COMPLETIONS[name]
    row = {"body": b'{"messages": [{"role": "user", "content": [' + make() + b"0]}]}"}

    with bounded(), pytest.raises(InputError, match=message):
        read_completion(row, HTTP, FakeGenerator())  # type: ignore[arg-type]
