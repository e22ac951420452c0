"""The official `openai` client works with the server and through the gateway, and gets the reports of /predictions."""

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from launcher.local_server import LocalServer
from launcher.sample_radiograph import as_png, sample_radiograph
from prelim_client.http_client import HttpClient
from tests.server.conftest import MODEL
from tests.server.openai_client import WAYS, image_part, open_client, open_way, user

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", params=WAYS)
def address(
    request: pytest.FixtureRequest, running_server: LocalServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """Arguments of a client for the tiny model."""
    running_server.wait_until_ready(MODEL)
    with open_way(request.param, running_server, MODEL, "1.0", tmp_path_factory.mktemp("keys")) as address:
        yield address


@pytest.fixture
def client(server: LocalServer, address: dict[str, Any]) -> Iterator[openai.OpenAI]:
    """A client for the tiny model."""
    with open_client(address) as client:
        yield client


@pytest.fixture(scope="module")
def png() -> bytes:
    """A real radiograph."""
    return as_png(sample_radiograph())


def ask(client: openai.OpenAI, *messages: Any, **parameters: Any) -> Any:
    """A completion."""
    return client.chat.completions.create(model=MODEL, messages=list(messages), **parameters)


def test_blocking(client: openai.OpenAI, http: HttpClient, png: bytes) -> None:
    """PNG and DICOM, greedy, sampled and with beams: text, hash and log-probabilities are those of /predictions."""
    for image, kind in ((png, "image/png"), (sample_radiograph(), "application/dicom")):
        message = {"role": "user", "content": [image_part(image, kind)]}
        completion = ask(client, message, max_tokens=8, logprobs=True)
        answer = http.report(image, max_new_tokens=8, return_logprobs=True)

        assert completion.choices[0].message.content == answer["report"]
        assert completion.prelim["status"] == "UNVERIFIED"
        assert completion.prelim["model"] == answer["model"]
        assert completion.prelim["warnings"] == answer["warnings"]
        logprobs = [token.logprob for token in completion.choices[0].logprobs.content]
        assert logprobs == [token["logprob"] for token in answer["tokens"]]
        assert sum(logprobs) / len(logprobs) == pytest.approx(answer["avg_logprob"])
        assert completion.usage.completion_tokens == answer["num_tokens"] == len(logprobs)

    sampled = ask(client, user(png), temperature=0.7, top_p=0.9, seed=5, n=2, max_tokens=8)
    answer = http.report(
        png, do_sample=True, temperature=0.7, top_p=0.9, seed=5, num_return_sequences=2, max_new_tokens=8
    )
    texts = [answer["report"], *(other["report"] for other in answer["alternatives"])]
    assert [choice.message.content for choice in sampled.choices] == texts

    beams = ask(client, user(png), max_tokens=8, extra_body={"num_beams": 3, "length_penalty": 2.0})
    assert (
        beams.choices[0].message.content == http.report(png, num_beams=3, length_penalty=2, max_new_tokens=8)["report"]
    )


@pytest.mark.parametrize("beams", [1, 3])
def test_streaming(client: openai.OpenAI, png: bytes, beams: int) -> None:
    """The pieces are the text; status and hash come with the end, the usage after it."""
    options = {"max_tokens": 24, "extra_body": {"num_beams": beams}}
    whole = ask(client, user(png), **options)
    *chunks, usage = ask(client, user(png), **options, stream=True, stream_options={"include_usage": True})

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].prelim["status"] == "UNVERIFIED"
    assert usage.usage == whole.usage


def test_async(address: dict[str, Any], client: openai.OpenAI, png: bytes) -> None:
    """Several requests at once, one of them streamed, from the asynchronous client."""

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(
            **address, http_client=openai.DefaultAsyncHttpxClient(trust_env=False)
        ) as concurrent:
            request: dict[str, Any] = {"model": MODEL, "messages": [user(png)], "max_tokens": 12}

            async def streamed() -> str:
                stream = await concurrent.chat.completions.create(**request, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            async def whole() -> str:
                return (await concurrent.chat.completions.create(**request)).choices[0].message.content or ""

            return list(await asyncio.gather(streamed(), whole(), whole()))

    assert set(asyncio.run(run())) == {ask(client, user(png), max_tokens=12).choices[0].message.content}


def test_models(client: openai.OpenAI) -> None:
    """The list and the model itself."""
    (model,) = client.models.list()

    assert model.id == client.models.retrieve(MODEL).id == MODEL


def test_errors(client: openai.OpenAI, png: bytes) -> None:
    """Each becomes the client's own exception, with the parameter at fault; the next request is served."""
    with pytest.raises(openai.BadRequestError, match="max_tokens is 99999") as bad:
        ask(client, user(png), max_tokens=99999)
    assert (bad.value.param, bad.value.code, bad.value.type) == ("max_tokens", "InvalidOption", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="frequency_penalty is not supported"):
        ask(client, user(png), frequency_penalty=1, stream=True)
    with pytest.raises(openai.BadRequestError, match="reads only the image"):
        ask(client, user(png, "Is the heart large?"))
    with pytest.raises(openai.NotFoundError, match="model is not tiny"):
        client.chat.completions.create(model="gpt-4o", messages=[user(png)])
    for name in ("a/b", "gpt-4o", "a b", 70 * "a"):
        with pytest.raises(openai.NotFoundError, match="model is not tiny") as unknown:
            client.models.retrieve(name)
        assert (unknown.value.param, unknown.value.code) == ("model", "UnknownModel")
    with pytest.raises(openai.NotFoundError, match="this path is not served") as path:
        client.completions.create(model=MODEL, prompt="x")
    assert path.value.code == "UnknownPath"
    with pytest.raises(openai.APIStatusError, match="looks like text") as unread:
        ask(client, user(b"hello"))
    assert unread.value.status_code == 415
    with pytest.raises(openai.APIStatusError) as denied:
        ask(client.with_options(api_key="wrong"), user(png))
    assert denied.value.status_code in (401, 403, 400)
    assert ask(client, user(png), max_tokens=2).choices[0].finish_reason in ("stop", "length")
