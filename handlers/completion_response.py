"""What is answered to a chat completion: OpenAI's objects, with ours in the member `prelim`.

A stream is server-sent events, each `data:` and one object, and ends with `data: [DONE]`. Comments are keep-alives.

Source: OpenAI API reference, "The chat completion object" and "The chat completion chunk object".
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from handlers.exchange import Completion, Exchange
from handlers.failure import Failure
from handlers.response import JSON, Answer, ServedModel, json_bytes, report_contents
from handlers.route import MODELS
from prelim.errors import InvalidOption
from prelim.report import Alternative, Report, Token
from prelim.report_generator import ReportGenerator

EVENTS = "text/event-stream"

ABOUT = ("status", "sections", "sentences", "regions", "reasoning", "model", "warnings", "timing_ms", "request_id")
"""Members of an answer to /predictions that OpenAI's objects have no place for."""


def content_type(exchange: Exchange) -> str:
    """Content type of an answer to this request."""
    return EVENTS if exchange.stream else JSON


def heartbeat(exchange: Exchange) -> bytes:
    """What keeps a connection alive and says nothing."""
    return b": waiting\n\n" if exchange.stream else b"\n"


def text_chunk(text: str, exchange: Exchange, model: ServedModel) -> bytes:
    """One event of a streamed answer."""
    role = {} if exchange.sent_characters else {"role": "assistant"}
    return _event(_chunk(exchange, model, _delta(0, role | {"content": text})))


def report_answer(report: Report, exchange: Exchange, model: ServedModel) -> Answer:
    """The answer that carries a report; in a stream the text that has not been sent precedes it."""
    choices: list[Report | Alternative] = [report, *report.alternatives]
    contents = report_contents(report, exchange, model)
    about = {name: contents[name] for name in ABOUT if name in contents} | {
        "avg_logprobs": [choice.avg_logprob for choice in choices]
    }
    written = sum(choice.num_tokens for choice in choices)
    usage = {
        "prompt_tokens": report.num_prompt_tokens,
        "completion_tokens": written,
        "total_tokens": report.num_prompt_tokens + written,
    }
    if exchange.stream:
        return Answer(200, b"".join(_rest(choices, about, usage, exchange, model)), EVENTS)
    completion = _head("chat.completion", exchange, model) | {
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "finish_reason": _finish_reason(choice),
                "logprobs": _logprobs(choice.tokens),
            }
            for index, choice in enumerate(choices)
        ],
        "usage": usage,
        "prelim": about,
    }
    return Answer(200, json_bytes(completion) + b"\n", JSON)


def failure_answer(failure: Failure, name: str, exchange: Exchange | None = None) -> Answer:
    """The answer that carries an error; in a stream that has begun it is an event."""
    field, message = failure.field, failure.message
    if exchange is not None and exchange.completion is not None:
        message, field = exchange.completion.in_client_words(message, field)
        if field is None and failure.code < 500 and failure.type != InvalidOption.__name__:
            # Everything but the image was checked when the request was read.
            field = "messages"
    kind = "invalid_request_error" if failure.code < 500 else "server_error"
    contents = {"error": {"message": message, "type": kind, "param": field, "code": failure.type}}
    contents["error"]["request_id"] = name
    if exchange is not None and exchange.chunked and exchange.stream:
        return Answer(failure.code, _event(contents), EVENTS)
    return Answer(failure.code, json_bytes(contents) + b"\n", JSON)


def models_answer(path: str, generator: ReportGenerator, model: ServedModel) -> Answer:
    """The list of the one model at this address, or the model itself where the path ends with its name."""
    served = {
        "id": model.name,
        "object": "model",
        "created": 0,
        "owned_by": "prelim",
        # TorchServe does not say which method a request has: a client that asks to delete the model reads this.
        "deleted": False,
        "prelim": dataclasses.asdict(model)
        | {"takes_prompts": generator.takes_prompts, "takes_messages": generator.takes_messages}
        | {"accepts": list(generator.accepts)},
    }
    listed = {"object": "list", "data": [served]}
    return Answer(200, json_bytes(listed if path == MODELS else served) + b"\n", JSON)


def _rest(
    choices: Sequence[Report | Alternative],
    about: dict[str, Any],
    usage: dict[str, int],
    exchange: Exchange,
    model: ServedModel,
) -> Iterator[bytes]:
    """The events that end a stream: what has not been sent of each text, why it ended, the usage."""
    for index, choice in enumerate(choices):
        sent = exchange.sent_characters if index == 0 else 0
        delta = ({} if sent else {"role": "assistant"}) | {"content": choice.text[sent:]}
        if not sent or delta["content"]:
            yield _event(_chunk(exchange, model, _delta(index, delta)))
    for index, choice in enumerate(choices):
        end = _delta(index, {}) | {"finish_reason": _finish_reason(choice), "logprobs": _logprobs(choice.tokens)}
        last = {"prelim": about} if index == len(choices) - 1 else {}
        yield _event(_chunk(exchange, model, end) | last)
    if exchange.completion is not None and exchange.completion.include_usage:
        yield _event(_head("chat.completion.chunk", exchange, model) | {"choices": [], "usage": usage})
    yield b"data: [DONE]\n\n"


def _head(kind: str, exchange: Exchange, model: ServedModel) -> dict[str, Any]:
    completion = exchange.completion or Completion()
    return {
        "id": completion.completion_id,
        "object": kind,
        "created": completion.created,
        "model": model.name,
        "system_fingerprint": model.sha256,
    }


def _chunk(exchange: Exchange, model: ServedModel, choice: dict[str, Any]) -> dict[str, Any]:
    return _head("chat.completion.chunk", exchange, model) | {"choices": [choice]}


def _delta(index: int, delta: dict[str, str]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": None, "logprobs": None}


def _finish_reason(choice: Report | Alternative) -> str:
    return "length" if choice.finish_reason == "length" else "stop"


def _logprobs(tokens: Sequence[Token]) -> dict[str, Any] | None:
    """Log-probabilities as OpenAI writes them; the vocabulary's entries are not always text, so `bytes` is left out."""
    if not tokens:
        return None
    return {
        "content": [
            {"token": token.text, "logprob": token.logprob, "bytes": None, "top_logprobs": []} for token in tokens
        ],
        "refusal": None,
    }


def _event(contents: dict[str, Any]) -> bytes:
    return b"data: " + json_bytes(contents) + b"\n\n"
