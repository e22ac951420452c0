"""Several images of one request, in every way of sending them."""

import base64
import json
import time
from typing import Any

import pytest

from handlers.request import read_request
from prelim.errors import InputError
from prelim.generation.options import GenerationOptions
from tests.handlers.test_request import HTTP, IMAGE, NUM_FEATURES, read

IMAGES = (IMAGE, b"second", b"third")
ENCODED = [base64.b64encode(image).decode() for image in IMAGES]
IN_EVERY_WAY = {
    "parts": {"image": bytearray(IMAGE), "image_2": bytearray(b"second"), "image_3": bytearray(b"third")},
    "part": {"images": json.dumps(ENCODED, indent=1).encode()},
    "JSON": {"body": json.dumps({"images": ENCODED, "prompt": "Why?"}).encode()},
    "data URLs": {"body": json.dumps({"images": [f"data:image/png;base64,{text}" for text in ENCODED]}).encode()},
    "JSON that the server has parsed": {"body": {"images": ENCODED}},
}


@pytest.mark.parametrize("row", IN_EVERY_WAY.values(), ids=IN_EVERY_WAY)
def test_several_images_mean_the_same_in_every_way(row: dict[str, Any]) -> None:
    """A list of base64 texts and numbered parts are the images in their order."""
    request = read(row).request

    assert request.images == IMAGES
    assert request.image is None


@pytest.mark.parametrize(
    "roles", [b'["lateral", "frontal"]', '["lateral", "frontal"]', ["lateral", "frontal"]], ids=["form", "text", "JSON"]
)
def test_roles_say_what_each_image_is(roles: Any) -> None:
    """In a form or gRPC a JSON list, in a JSON body a list."""
    request = read({"image": b"a", "image_2": b"b", "roles": roles}).request

    assert request.roles == ("lateral", "frontal")
    assert request.in_order(("frontal", "lateral")).images == (b"b", b"a")
    assert read({"image": b"a"}).request.roles is None


@pytest.mark.parametrize(
    ("given", "banned"),
    [
        ({"roles": ["frontal", "prior"]}, ()),
        ({"roles": ["frontal", "lateral"]}, ("unchanged",)),
        ({"roles": ["frontal", "lateral"], "comparison": "Radiograph of last week"}, ("unchanged",)),
        ({}, ("unchanged",)),
        ({"roles": ["frontal", "prior"], "banned_phrases": ["recommend"]}, ("recommend",)),
        ({"banned_phrases": []}, ()),
    ],
)
def test_phrases_about_priors_are_banned_unless_there_is_one(given: dict[str, Any], banned: tuple[str, ...]) -> None:
    """The list in model.yaml is for requests without an image of a prior; a list of the request always counts."""
    row = {"body": {"images": ENCODED[:2], **given}}
    exchange = read_request(row, HTTP, GenerationOptions(banned_phrases=("unchanged",)), NUM_FEATURES)
    assert exchange.request.options is not None
    assert exchange.request.options.banned_phrases == banned


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": b"a", "images": b'["YQ=="]'}, "images and image are both given"),
        ({"image": b"a", "image_3": b"c"}, "image_3 is given without image_2"),
        ({"image_2": b"b"}, "image_2 is given without image"),
        ({"image": b"a", "image_2": b"b", "image_features": b"[[1]]"}, "images and image_features are both given"),
        ({"images": b'["YQ=="]', "image_features": b"[[1]]"}, "images and image_features are both given"),
        ({"images": b"[]"}, "there is no image"),
        ({"images": b'{"a": 1}'}, "must be a JSON list of base64 texts"),
        ({"images": b'["YQ==" "YQ=="]'}, "must be a JSON list of base64 texts"),
        ({"images": b'["?"]'}, "not valid base64"),
        ({"images": json.dumps(["YQ=="] * 9).encode()}, "images has 9 entries; at most 8"),
        ({"body": b'{"images": ["YQ=="], "images": ["YQ=="]}'}, "images|given twice"),
        ({"body": b'{"options": {"images": ["YQ=="]}, "image": "YQ=="}'}, "images must be given once"),
        ({"body": {"images": "YQ=="}}, "must be a JSON list"),
        ({"image": b"a", "image_2": b"b", "roles": b"lateral"}, "roles must be a JSON list of texts"),
        ({"image": b"a", "image_2": b"b", "roles": b'["frontal", 2]'}, "roles must be a JSON list of texts"),
        ({"image": b"a", "image_2": b"b", "roles": b'["frontal"]'}, "roles has 1 entries for 2 images"),
        ({"body": {"images": 3}}, "images is of type int"),
        ({"body": {"image": "YQ==", "image_2": "YQ=="}}, "in JSON send images"),
    ],
)
def test_wrong_images_are_explained(row: dict[str, Any], message: str) -> None:
    """Two ways at once, gaps, and lists that are malformed are refused."""
    with pytest.raises(InputError, match=message):
        read(row)


def test_malformed_lists_are_refused_in_linear_time() -> None:
    """A malformed list of a megabyte takes less than 2 s of CPU time."""
    body = b'{"images": ["' + b'","' * 300_000 + b"]}"

    began = time.process_time()
    with pytest.raises(InputError):
        read({"body": body})

    assert time.process_time() - began < 2
