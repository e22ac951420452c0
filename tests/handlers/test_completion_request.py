"""What a chat completion says: parameters, images and turns become a request, and the rest is refused by name."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from handlers.completion import FIXED, PARAMETERS, UNREAD
from prelim.errors import InvalidOption
from prelim.generation.options import GenerationOptions
from tests.handlers.chat import PATH, assistant, error, image, submit, uri, url, user
from tests.handlers.fake_generator import FakeGenerator
from tests.handlers.frontend import Frontend

JSON_OBJECT = {"type": "json_object"}

LARGE = bytes(200_000)
"""More than the JSON of a request may have, an image not counted."""


def schema_of(**schema: Any) -> dict[str, Any]:
    """A response format."""
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


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
    assert request.context_words == {"indication": "cough", "age": "64"}


def test_reasoning_is_asked_for_next_to_the_messages(frontend: Frontend, generator: FakeGenerator) -> None:
    """And is not without it."""
    submit(frontend)
    submit(frontend, return_reasoning=True)
    assert [request.return_reasoning for request in generator.seen.values()] == [False, True]


def test_roles_go_next_to_the_messages(frontend: Frontend, generator: FakeGenerator) -> None:
    """As in `extra_body`; the model's own limit for images without roles does not count."""
    generator.max_images = 1
    submit(frontend, messages=[user(image(b"a"), image(b"b"))], roles=["lateral", "frontal"])

    (request,) = generator.seen.values()
    assert (request.images, request.roles) == ((b"a", b"b"), ("lateral", "frontal"))


@pytest.mark.parametrize(("role", "banned"), [("prior", ()), ("lateral", ("unchanged",))])
def test_a_prior_lifts_the_ban_of_its_phrases(
    serve: Callable[..., Frontend], generator: FakeGenerator, role: str, banned: tuple[str, ...]
) -> None:
    """As in a request for a report."""
    generator.config.generation = GenerationOptions(max_new_tokens=6, banned_phrases=("unchanged",))
    submit(serve(), messages=[user(image(b"a"), image(b"b"))], roles=["frontal", role])

    (request,) = generator.seen.values()
    assert request.options is not None
    assert request.options.banned_phrases == banned


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
        ({"max_tokens": 20000}, "max_tokens", "max_tokens is 20000; allowed: 1 to 16384"),
        ({"n": 2}, "n", "n is 2; allowed: 1 with greedy search; for more set num_beams or temperature"),
        ({"n": "two"}, "n", "n is 'two'; it must be a number"),
        ({"temperature": -1}, "temperature", "allowed: 0.000001 to 100"),
        ({"top_p": 0}, "top_p", "allowed"),
        ({"stop": [""]}, "stop", "1 to 64 characters"),
        ({"stop": [1]}, "stop", "can be lists, of texts"),
        ({"stop": ["x"] * 17}, "stop", "at most"),
        ({"min_new_tokens": 9, "max_tokens": 5}, "min_new_tokens", "0 to max_tokens"),
        ({"logprobs": "yes"}, "logprobs", "true or false"),
        ({"return_reasoning": "yes"}, "return_reasoning", "true or false"),
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


def test_every_parameter_has_one_meaning() -> None:
    """No name is read, fixed and unread at once."""
    assert not PARAMETERS.keys() & FIXED.keys()
    assert not (PARAMETERS.keys() | FIXED.keys()) & set(UNREAD)


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
