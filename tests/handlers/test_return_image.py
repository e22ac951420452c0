"""`return_image` asks for the images as the network reads them, as base64 texts of PNG files."""

import base64
import json
from typing import Any

import pytest

from tests.handlers.frontend import Frontend

ONE = [base64.b64encode(b"PNG of word").decode()]


@pytest.mark.parametrize(
    "row",
    [
        {"image": b"word", "return_image": b"true"},
        {"image": b"word", "options": b'{"return_image": true}'},
        {"body": {"image": base64.b64encode(b"word").decode(), "return_image": True}},
    ],
)
def test_images_come_with_the_report(frontend: Frontend, row: dict[str, Any]) -> None:
    """Asked for in a form, among its options or in JSON."""
    job = frontend.submit(row)
    frontend.run()
    assert (job.status, job.body["images"]) == (200, ONE)


def test_images_come_over_grpc(frontend: Frontend) -> None:
    """As over HTTP."""
    job = frontend.submit_grpc(image=b"word", return_image=b"true")
    frontend.run()
    assert job.body["images"] == ONE


@pytest.mark.parametrize("row", [{"image": b"word"}, {"image": b"word", "return_image": b"false"}])
def test_images_do_not_come_unasked(frontend: Frontend, row: dict[str, Any]) -> None:
    """They are as large as the rest of the answer together."""
    job = frontend.submit(row)
    frontend.run()
    assert "images" not in job.body


def test_images_end_a_stream(frontend: Frontend) -> None:
    """The last line has them; the lines of text before are what they are without."""
    job = frontend.submit({"image": b"word", "return_image": b"true", "stream": b"true"})
    frontend.run()
    *pieces, last = [json.loads(line) for line in b"".join(job.chunks).splitlines() if line.strip()]
    assert last["images"] == ONE
    assert "".join(piece["text"] for piece in pieces) == last["report"]
    assert all(piece.keys() == {"text"} for piece in pieces)


def test_every_image_comes_in_its_place(frontend: Frontend) -> None:
    """Several images of one request keep their order."""
    job = frontend.submit({"image": b"first", "image_2": b"second", "return_image": b"true"})
    frontend.run()
    assert [base64.b64decode(image) for image in job.body["images"]] == [b"PNG of first", b"PNG of second"]


def test_other_values_are_refused(frontend: Frontend) -> None:
    """By the name of the field."""
    job = frontend.submit({"image": b"word", "return_image": b"png"})
    frontend.run()
    assert job.status == 400
    assert "return_image" in job.body["error"]["message"]
