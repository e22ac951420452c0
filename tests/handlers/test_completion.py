"""Chat completions: OpenAI's format in, OpenAI's objects out, and the same reports as /predictions."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from handlers.completion import FIXED, PARAMETERS, UNREAD
from prelim.errors import InvalidOption
from prelim.generation.options import GenerationOptions
from tests.handlers.fake_generator import FakeGenerator
from tests.handlers.frontend import Frontend, Job

PATH = {"url_path": "v1/chat/completions", "Content-Type": "application/json"}


def uri(contents: bytes, kind: str = "image/png") -> str:
    """A data URI."""
    return f"data:{kind};base64,{base64.b64encode(contents).decode()}"


def url(address: str) -> dict[str, Any]:
    """A part with this address."""
    return {"type": "image_url", "image_url": {"url": address}}


LARGE = bytes(200_000)
"""More than the JSON of a request may have, an image not counted."""


def image(contents: bytes = b"lungs") -> dict[str, Any]:
    """A part with an image."""
    return {"type": "image_url", "image_url": {"url": uri(contents)}}


def user(*parts: Any) -> dict[str, Any]:
    """A message of the user; texts are parts, too."""
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def assistant(text: str) -> dict[str, Any]:
    """What clients send back of an answer."""
    return {"role": "assistant", "content": text, "refusal": None, "tool_calls": None}


def submit(frontend: Frontend, *messages: dict[str, Any], **members: Any) -> Job:
    """A chat completion, run to its end."""
    body = {"model": "fake", "messages": list(messages) or [user(image())], **members}
    job = frontend.submit({"body": json.dumps(body).encode()}, PATH)
    frontend.run()
    return job


def error(job: Job) -> dict[str, Any]:
    """The error of a request that was refused, without the request's id."""
    assert job.status is not None
    assert 400 <= job.status < 600
    return {name: value for name, value in job.body["error"].items() if name != "request_id" or not value}


def events(job: Job) -> list[dict[str, Any]]:
    """The objects of a stream, which ends as it must."""
    lines = [line for line in b"".join(job.chunks).decode().split("\n\n") if line and not line.startswith(":")]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


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


@pytest.mark.parametrize(
    ("members", "options"),
    [
        ({}, {}),
        ({"max_tokens": 3}, {"max_new_tokens": 3}),
        ({"max_completion_tokens": 3}, {"max_new_tokens": 3}),
        ({"temperature": 0}, {"do_sample": False}),
        ({"temperature": 0.0, "top_p": 0.5}, {"do_sample": False, "top_p": 0.5}),
        ({"temperature": 0.5}, {"do_sample": True, "temperature": 0.5}),
        ({"top_p": 0.9, "seed": 3}, {"do_sample": True, "top_p": 0.9, "seed": 3}),
        ({"temperature": 2, "do_sample": False}, {"temperature": 2.0}),
        ({"n": 3, "temperature": 1}, {"do_sample": True, "num_return_sequences": 3}),
        ({"n": 2, "num_beams": 4, "top_k": 9}, {"num_beams": 4, "num_return_sequences": 2, "top_k": 9}),
        ({"stop": "a"}, {"stop": ("a",)}),
        ({"stop": ["a", "b"], "repetition_penalty": 1.5}, {"stop": ("a", "b"), "repetition_penalty": 1.5}),
        ({"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": [], "user": "x", "n": None}, {}),
    ],
)  # fmt: skip
def test_parameters_are_options(
    frontend: Frontend, generator: FakeGenerator, members: dict[str, Any], options: dict[str, Any]
) -> None:
    """OpenAI's names and ours; a temperature asks for sampling, 0 for none; null and neutral values change nothing."""
    assert submit(frontend, **members).status == 200
    (request,) = generator.seen.values()
    assert request.options == GenerationOptions(**({"max_new_tokens": 6} | options))


@pytest.mark.parametrize("temperature", [0, 1])
def test_sampling_is_without_beams(
    serve: Callable[..., Frontend], generator: FakeGenerator, temperature: float
) -> None:
    """A model whose default is beam search samples by itself, as everywhere in OpenAI's format."""
    generator.config.generation = GenerationOptions(num_beams=3, max_new_tokens=2)

    submit(serve(), temperature=temperature)

    (request,) = generator.seen.values()
    assert request.options is not None
    assert (request.options.num_beams, request.options.do_sample) == ((1, True) if temperature else (3, False))


def test_context_goes_next_to_the_messages(frontend: Frontend, generator: FakeGenerator) -> None:
    """As in `extra_body`; the model says what it accepts."""
    submit(frontend, indication="cough", age=64)

    (request,) = generator.seen.values()
    assert request.context == {"indication": "cough", "age": "64"}


def schema_of(**schema: Any) -> dict[str, Any]:
    """A response format."""
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


JSON_OBJECT = {"type": "json_object"}
SCHEMA = {"type": "object", "properties": {"findings": {"type": "string"}}, "required": ["findings"]}


@pytest.mark.parametrize(
    ("members", "grammar"),
    [
        ({"response_format": {"type": "text"}}, ""),
        ({"response_format": {"type": "json_object"}}, '{"type":"object"}'),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": SCHEMA},
                }
            },
            json.dumps(SCHEMA, separators=(",", ":")),
        ),
        ({"grammar": "[a-z ]+"}, "[a-z ]+"),
        ({"grammar": SCHEMA}, json.dumps(SCHEMA, separators=(",", ":"))),
    ],
)
def test_response_formats_are_grammars(
    frontend: Frontend, generator: FakeGenerator, members: dict[str, Any], grammar: str
) -> None:
    """OpenAI's member for JSON, and ours for both kinds."""
    submit(frontend, **members)

    (request,) = generator.seen.values()
    assert request.options.grammar == grammar


@pytest.mark.parametrize(
    ("members", "param", "message"),
    [
        ({"max_tokens": 5000}, "max_tokens", "max_tokens is 5000; allowed: 1 to 1024"),
        ({"n": 2}, "n", "n is 2; allowed: 1 with greedy search; for more set num_beams or temperature"),
        ({"n": "two"}, "n", "n is 'two'; it must be a number"),
        ({"temperature": -1}, "temperature", "allowed: 0.000001 to 100"),
        ({"top_p": 0}, "top_p", "allowed"),
        ({"stop": [""]}, "stop", "1 to 64 characters"),
        ({"stop": [1]}, "stop", "can be lists, of texts"),
        ({"stop": ["x"] * 17}, "stop", "at most"),
        ({"min_new_tokens": 9, "max_tokens": 5}, "min_new_tokens", "0 to max_tokens"),
        ({"logprobs": "yes"}, "logprobs", "true or false"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"response_format": {"type": "grammar"}}, "response_format", "response_format must be"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format", "must be"),
        ({"response_format": {"type": "json_object"}, "grammar": "x"}, "response_format", "both given"),
        ({"grammar": "x" * 8193}, "grammar", "at most 8192 characters"),
        ({"sex": "x"}, "sex", "sex must be one of M, F, O"),
        ({"indication": "a\nb"}, "indication", "control character"),
        ({"grammar": ["x"]}, "grammar", "must be a regular expression or a JSON schema"),
        ({"response_format": schema_of(enum=["x" * 8193])}, "response_format", "response_format is '"),
        ({"max_completion_tokens": "x"}, "max_completion_tokens", "max_completion_tokens is 'x'"),
        ({"messages": [user(image(), 8001 * "a")]}, "messages", "messages has 8001 characters"),
        ({"messages": [user(image(), "\ud800")]}, "messages[0].content[1]", "not UTF-8 text"),
        ({"messages": [user(image()), *[user("a")] * 64]}, "messages", "65 entries"),
        ({"top_logprobs": 3}, "top_logprobs", "not supported"),
        ({"nonsense": 1}, "nonsense", "unknown parameter 'nonsense'; known: model, messages"),
        ({"max_new_tokens": 5}, "max_new_tokens", "unknown parameter"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens", "both given"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "max_completion_tokens is 0"),
        ({"min_new_tokens": 9, "max_completion_tokens": 5}, "min_new_tokens", "0 to max_completion_tokens"),
        ({"stream": True, "stream_options": {"include_usage": "x"}}, "stream_options.include_usage", "true or false"),
        ({"messages": [user(url("data:image/png;base64,@@"))]}, "messages", "not valid base64"),
        ({"messages": [user(url("data:image/png;base64,"))]}, "messages", "is empty"),
        ({"messages": [user(*[image()] * 5)]}, "messages", "messages have 5 images; fake reads 4"),
        ({"messages": [user({"type": "image_url", "image_url": uri(LARGE)})]}, "messages[0].content[0]", "DATA URI"),
        ({"messages": [user({"type": "text", "text": uri(LARGE)})]}, "messages", "not in an image_url"),
        ({"stream": "maybe"}, "stream", "stream must be true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "with stream"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options", "include_usage"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": "hello"}, "messages", "must be a list"),
        ({"messages": [user("hello")]}, "messages", "there is no image"),
        ({"messages": [{"role": "system", "content": "x"}, user(image())]}, "messages[0].role", "user or assistant"),
        ({"messages": [{"content": "x"}]}, "messages[0]", "role and content"),
        ({"messages": [user(image()), {"role": "tool", "content": "x"}]}, "messages[1].role", "user or assistant"),
        ({"messages": [user(image()), assistant("a"), user(image())]}, "messages[2].content[0]", "first message"),
        ({"messages": [user({"type": "input_audio"}, image())]}, "messages[0].content[0]", "must be {"),
        ({"messages": [user(image()) | {"tool_calls": [1]}]}, "messages[0].tool_calls", "not supported"),
    ],
)
def test_what_is_not_supported_is_named(
    frontend: Frontend, members: dict[str, Any], param: str | None, message: str
) -> None:
    """OpenAI's error shape, with the member that is at fault and its name there."""
    job = submit(frontend, **members)

    assert job.status == (413 if error(job)["code"] == "TooLarge" else 400)
    assert (error(job)["type"], error(job)["param"]) == ("invalid_request_error", param)
    assert message in error(job)["message"]


FOUND_BY_THE_MODEL: list[tuple[InvalidOption, dict[str, Any], str, str | None]] = [
    (
        InvalidOption("grammar is x", "grammar"),
        {"response_format": JSON_OBJECT},
        "response_format is x",
        "response_format",
    ),
    (InvalidOption("grammar is x", "grammar"), {"grammar": "x"}, "grammar is x", "grammar"),
    (InvalidOption("max_new_tokens is 9", "max_new_tokens"), {}, "max_tokens is 9", "max_tokens"),
    (InvalidOption("num_return_sequences 2, max_new_tokens 9", "num_return_sequences"), {}, "n 2, max_tokens 9", "n"),
    (InvalidOption("the prompt is long", "prompt"), {}, "the prompt is long", "messages"),
    (InvalidOption("the options allow no further token"), {}, "the options allow no further token", None),
]
"""What the model raises, members of the request, message and param of the answer."""


@pytest.mark.parametrize("case", FOUND_BY_THE_MODEL)
def test_what_the_model_cannot_take_is_named(
    frontend: Frontend,
    generator: FakeGenerator,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[InvalidOption, dict[str, Any], str, str | None],
) -> None:
    """By the client's own name, also where the model finds the fault and not the reader of the request."""
    found, members, message, param = case

    def refuse(*_: object) -> None:
        raise found

    monkeypatch.setattr(generator, "add", refuse)
    job = submit(frontend, **members)
    assert (job.status, error(job)["message"], error(job)["param"]) == (400, message, param)


@pytest.mark.parametrize(
    "url", ["https://example.com/chest.png", "file:///etc/passwd", "chest.png", "data:image/png,raw", "data:0", "data:"]
)
def test_only_data_uris_are_read(frontend: Frontend, url: str) -> None:
    """Nothing is fetched, and what stands for an image inside the handler cannot be sent."""
    part = {"type": "image_url", "image_url": {"url": url}}

    assert error(submit(frontend, user(part)))["code"] == "UnreadableInput"
    assert error(submit(frontend, user(image(), part)))["code"] == "UnreadableInput"


@pytest.mark.parametrize("forged", [r"\u0064ata:0", r"\u0064ata:1", r"\u0064ata:None"])
def test_forged_places_of_images_are_refused(frontend: Frontend, forged: str) -> None:
    """An escaped URI is not cut out, and stands for no image."""
    body = json.dumps({"messages": [user(image(), {"type": "image_url", "image_url": {"url": "FORGED"}})]})

    for changed in (
        body,
        json.dumps({"messages": [user({"type": "image_url", "image_url": {"url": "FORGED"}}, image())]}),
    ):
        job = frontend.submit({"body": changed.replace("FORGED", forged).encode()}, PATH)
        frontend.run()
        assert job.status == 400


def test_images_elsewhere_are_refused(frontend: Frontend, generator: FakeGenerator) -> None:
    """An image that no message of the user shows is not one of the request."""
    assert submit(frontend, user(image()), user={"url": uri(b"x")}).status == 400
    assert submit(frontend, assistant("x") | {"content": [image()]}, user("x")).status == 400
    assert not generator.seen


def test_several_images_in_their_order(frontend: Frontend, generator: FakeGenerator) -> None:
    """Parts of the first message; types and line breaks of the URI do not matter, what is in it does."""
    dicom = {"type": "image_url", "image_url": {"url": uri(b"second", "application/dicom"), "detail": "high"}}

    submit(frontend, user(image(b"first"), "compare", dicom))

    (request,) = generator.seen.values()
    assert (request.image, request.images) == (None, (b"first", b"second"))
    assert request.messages == ({"role": "user", "content": "compare"},)


def test_conversation(frontend: Frontend, generator: FakeGenerator) -> None:
    """All turns reach the model, texts of several parts by lines, and the image of the first."""
    submit(frontend, user("Is it", "large?", image()), assistant("No."), {"role": "user", "content": "And the lungs?"})

    (request,) = generator.seen.values()
    assert request.image == b"lungs"
    assert request.messages == (
        {"role": "user", "content": "Is it\nlarge?"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "And the lungs?"},
    )


@pytest.mark.parametrize("takes", ["nothing", "prompts", "messages"])
def test_text_goes_where_the_model_reads_it(frontend: Frontend, generator: FakeGenerator, takes: str) -> None:
    """A prompt or a conversation; a model that reads neither refuses it, so that no question gets a wrong answer."""
    generator.takes_prompts, generator.takes_messages = takes != "nothing", takes == "messages"

    alone = submit(frontend)
    asked = submit(frontend, user(image(), "What?"))
    talked = submit(frontend, user(image(), "What?"), assistant("That."), user("Why?"))

    assert alone.status == 200
    assert asked.status == (400 if takes == "nothing" else 200)
    assert talked.status == (200 if takes == "messages" else 400)
    first, *others = generator.seen.values()
    assert (first.prompt, first.messages) == (None, None)
    if takes == "prompts":
        assert [(other.prompt, other.messages) for other in others] == [("What?", None)]


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
    assert submit(frontend, **{f"member{i}": i for i in range(40)}).status == 413
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


def test_every_parameter_has_one_meaning() -> None:
    """No name is read, fixed and unread at once."""
    assert not PARAMETERS.keys() & FIXED.keys()
    assert not (PARAMETERS.keys() | FIXED.keys()) & set(UNREAD)
