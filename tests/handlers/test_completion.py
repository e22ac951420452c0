"""Chat completions: OpenAI's format in, OpenAI's objects out, and the same reports as /predictions."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from handlers.fields import MAX_FIELDS
from tests.handlers.chat import PATH, assistant, error, events, image, submit, user
from tests.handlers.fake_generator import FakeGenerator
from tests.handlers.frontend import Frontend


def test_completion_has_every_part(frontend: Frontend) -> None:
    """The whole object, and the same report as /predictions."""
    job = submit(frontend, logprobs=True, max_tokens=2)
    report = frontend.submit({"image": b"lungs", "max_new_tokens": b"2", "return_logprobs": b"true"})
    frontend.run()

    assert (job.status, job.content_type) == (200, "application/json")
    body = job.body
    assert body.pop("id").startswith("chatcmpl-")
    assert body.pop("created") > 1.7e9
    assert body.pop("prelim") == {
        "status": "UNVERIFIED",
        "sections": {"findings": None, "impression": None},
        "avg_logprobs": [-0.5],
        "model": report.body["model"],
        "warnings": [],
        "timing_ms": {"queue": 0, "preprocess": 1, "vision": 2, "decode": 3},
        "request_id": "request-0",
    }
    word = {"token": "word", "logprob": -0.5, "bytes": None, "top_logprobs": []}
    assert body == {
        "object": "chat.completion",
        "model": "fake",
        "system_fingerprint": "0" * 64,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": report.body["report"], "refusal": None},
                "finish_reason": "length",
                "logprobs": {"content": [word, word], "refusal": None},
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
    }
    assert report.body["tokens"] == [{"text": "word", "logprob": -0.5}] * 2


def test_logprobs_are_not_computed_unless_requested(frontend: Frontend) -> None:
    """Without `logprobs` there are none, in either format."""
    report = frontend.submit({"image": b"lungs"})

    assert submit(frontend).body["choices"][0]["logprobs"] is None
    assert "tokens" not in report.body


def test_choices(frontend: Frontend) -> None:
    """`n` sequences are choices of their own, with their own ends; their tokens are counted together."""
    body = submit(frontend, n=2, temperature=1, max_tokens=3, logprobs=True).body

    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["length", "stop"]
    assert [len(choice["logprobs"]["content"]) for choice in body["choices"]] == [3, 2]
    assert body["choices"][1]["message"]["content"] == "another"
    assert body["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("include_usage", [True, False])
def test_stream(frontend: Frontend, include_usage: bool) -> None:
    """The pieces, joined, are the text; the role comes once, the end with our part, then the usage."""
    whole = submit(frontend, max_tokens=6).body
    job = submit(frontend, max_tokens=6, stream=True, stream_options={"include_usage": include_usage})

    assert job.content_type == "text/event-stream"
    chunks = events(job)
    if include_usage:
        assert chunks.pop() == {**chunks[0], "choices": [], "usage": whole["usage"]}
    *pieces, last = (chunk["choices"][0] for chunk in chunks)
    assert len(pieces) > 2
    assert "".join(piece["delta"]["content"] for piece in pieces) == whole["choices"][0]["message"]["content"]
    assert [piece["delta"].get("role") for piece in pieces] == ["assistant"] + [None] * (len(pieces) - 1)
    assert (last["delta"], last["finish_reason"]) == ({}, "length")
    assert chunks[-1]["prelim"]["status"] == "UNVERIFIED"
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1


def test_stream_of_several_sequences(frontend: Frontend) -> None:
    """The first text comes as it is generated, the others whole at the end, then the ends of all."""
    chunks = [chunk["choices"][0] for chunk in events(submit(frontend, num_beams=2, n=2, stream=True, max_tokens=6))]

    first = [c["delta"]["content"] for c in chunks if c["index"] == 0 and c["delta"]]
    assert len(first) > 2
    assert "".join(first) == "lungs lungs lungs lungs lungs lungs"
    assert [(c["index"], c["delta"].get("content"), c["finish_reason"]) for c in chunks[len(first) :]] == [
        (1, "another", None),
        (0, None, "length"),
        (1, None, "stop"),
    ]


def test_keep_alives_of_a_stream_are_comments(serve: Callable[..., Frontend]) -> None:
    """Between server-sent events there are no other lines; an error that follows one is an event."""
    frontend = serve(prelim={"steps_per_handle": 1, "heartbeat_s": 1})
    frontend.handler.generator.new_text = lambda _: ""
    jobs = [
        frontend.submit(
            {"body": json.dumps({"messages": [user(image(word))], "stream": True, "n": 2, "num_beams": 2}).encode()},
            PATH,
        )
        for word in (b"slow", b"lost")
    ]
    frontend.call()
    for exchange in frontend.handler.flight.exchanges.values():
        exchange.arrived -= 10
    frontend.run()

    assert [job.chunks[0] for job in jobs] == [b": waiting\n\n"] * 2
    assert events(jobs[0])
    assert jobs[1].chunks[-1].startswith(b'data: {"error":')


@pytest.mark.parametrize("contents", [b"broken", b"nan"])
@pytest.mark.parametrize("stream", [True, False])
def test_failure_while_decoding(frontend: Frontend, contents: bytes, stream: bool) -> None:
    """A status where none has been sent, and OpenAI's shape."""
    job = submit(frontend, user(image(contents)), stream=stream)

    assert job.content_type == "application/json"
    assert (job.status, error(job)) == (
        (415, {"message": "these bytes are not an image", "type": "invalid_request_error", "param": "messages",
               "code": "NotAnImage"})
        if contents == b"broken"
        else (500, {"message": "the decoder computed NaN or infinity for this request", "type": "server_error",
                    "param": None, "code": "NonFiniteOutput"})
    )  # fmt: skip


def test_failure_in_a_stream_that_has_begun(frontend: Frontend, generator: FakeGenerator) -> None:
    """An event, because the status line has gone; no [DONE], so that nobody takes the text for whole."""
    body = {"messages": [user(image())], "stream": True}
    job = frontend.submit({"body": json.dumps(body).encode()}, PATH)
    frontend.call()
    generator.faulty = True
    frontend.run()

    last = b"".join(job.chunks).split(b"\n\n")[-2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["type"] == "server_error"
    assert b"[DONE]" not in b"".join(job.chunks)


@pytest.mark.parametrize(("name", "status"), [("fake", 200), ("fake/7", 200), (None, 200), ("gpt-4o", 404), (7, 404)])
def test_model_is_the_one_at_this_address(frontend: Frontend, name: Any, status: int) -> None:
    """Its name, with its version or without; any other is an error, as with OpenAI."""
    job = submit(frontend, model=name)

    assert job.status == status
    assert status == 200 or error(job)["param"] == "model"


@pytest.mark.parametrize("path", ["v1/models", "v1/models/fake", "/v1/models/"])
def test_models(frontend: Frontend, path: str) -> None:
    """The one model, and what text it takes."""
    job = frontend.submit({}, {"url_path": path})
    frontend.run()

    model = job.body["data"][0] if job.body["object"] == "list" else job.body
    assert (job.status, model["id"], model["object"]) == (200, "fake", "model")
    # OpenAI's clients need a time; when the model was made is not known here.
    assert (model["created"], model["owned_by"], model["deleted"]) == (0, "prelim", False)
    assert model["prelim"]["takes_messages"] is True
    assert model["prelim"]["accepts"] == ["indication", "age"]
    assert model["prelim"]["sha256"] == "0" * 64


@pytest.mark.parametrize(
    ("row", "headers"),
    [
        ({}, {}),
        ({"image": b"lungs"}, {"Content-Type": "multipart/form-data; boundary=x"}),
        ({"body": b"{}", "image": b"lungs"}, {}),
        ({"body": b"[]"}, {}),
        ({"body": b"{"}, {}),
        ({"body": b"\xff"}, {}),
        ({"body": b'{"messages": [{"role": "user", "content": [{"url": "data:image/png;base64,AA'}, {}),
        ({"body": b'{"messages": 1, "messages": 2}'}, {}),
        ({"body": {"messages": []}}, {}),
    ],
)
def test_bodies_that_are_not_completions(frontend: Frontend, row: dict[str, Any], headers: dict[str, str]) -> None:
    """Bad requests with OpenAI's shape of errors, whatever they are."""
    job = frontend.submit(row, PATH | headers)
    frontend.run()

    assert (job.status, error(job)["type"]) == (400, "invalid_request_error")


def test_limits(frontend: Frontend) -> None:
    """Too many images, messages, members or characters are 413."""
    assert submit(frontend, user(*[image()] * 9)).status == 413
    assert submit(frontend, *[user("a", image()), *[assistant("b"), user("a")] * 40]).status == 413
    assert submit(frontend, **{f"member{i}": i for i in range(MAX_FIELDS)}).status == 413
    assert submit(frontend, user("a" * 9000, image())).status == 413
    assert submit(frontend, user("a" * 200_000, image())).status == 413


def test_other_paths_are_refused(frontend: Frontend) -> None:
    """A path that only looks like one of these is not a request for a report."""
    job = frontend.submit({"image": b"lungs"}, {"url_path": "chat/completions"})
    frontend.run()
    assert (job.status, job.body["error"]["code"]) == (400, 400)
    for path in ("v1/chat", "v1/completions", "v1/models/other", "v1/embeddings", "v1/chat/completions/x"):
        job = frontend.submit({"image": b"lungs"}, {"url_path": path})
        frontend.run()
        assert (job.status, error(job)["type"]) == (404, "invalid_request_error")
        assert error(job)["code"] == ("UnknownModel" if path == "v1/models/other" else "UnknownPath")
