"""What is answered: the bytes of a body and its content type.

A report is one JSON object. A streamed report is lines of JSON, each an object: `{"text": "..."}` for every piece of
text as it is generated, then, last, the report as it would have been answered whole, or `{"error": ...}`. The pieces,
joined, are exactly the text of the report. Empty lines are keep-alives.
"""

import base64
import dataclasses
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from handlers.exchange import Exchange
from handlers.failure import Failure
from prelim.archive.model_config import ModelConfig
from prelim.archive.terms import GAP
from prelim.report import Alternative, Region, Report

JSON = "application/json"
JSON_LINES = "application/x-ndjson"

_LINE_ENDS = str.maketrans({end: f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"})
"""JSON allows them in a string, but many clients take them for the end of a line."""


@dataclass(frozen=True)
class ServedModel:
    """Which model wrote a report: the `model` of an answer.

    `licence` and `use` are those of its weights, as in its model.yaml.
    """

    name: str
    version: str
    architecture: str
    sha256: str
    licence: str = GAP
    use: str = GAP

    @classmethod
    def of(cls, config: ModelConfig, sha256: str) -> "ServedModel":
        """The model of an archive with this model.yaml and manifest."""
        return cls(config.name, config.version, config.architecture, sha256, config.licence, config.use)


@dataclass(frozen=True)
class Answer:
    """The end of one exchange."""

    code: int
    body: bytes
    content_type: str

    @property
    def phrase(self) -> str:
        """The HTTP reason phrase. It never quotes the message: TorchServe needs one line of ASCII there."""
        return HTTPStatus(self.code).phrase


class AnswerFormat(Protocol):
    """How requests of one kind are answered: this module is one format, `completion_response` another."""

    def content_type(self, exchange: Exchange) -> str:
        """Content type of an answer to this request."""

    def heartbeat(self, exchange: Exchange) -> bytes:
        """What keeps a connection alive and says nothing."""

    def text_chunk(self, text: str, exchange: Exchange, model: ServedModel) -> bytes:
        """A piece of a streamed text."""

    def report_answer(self, report: Report, exchange: Exchange, model: ServedModel) -> Answer:
        """The answer that carries a report; in a stream the text that has not been sent precedes it."""

    def failure_answer(self, failure: Failure, name: str, exchange: Exchange | None = None) -> Answer:
        """The answer that carries an error; without an exchange the request could not be read.

        name : id of the request
        """


def content_type(exchange: Exchange) -> str:
    """Content type of an answer to this request."""
    return JSON_LINES if exchange.stream else JSON


def heartbeat(exchange: Exchange) -> bytes:
    """An empty line: whitespace is legal before a JSON object and between lines of JSON."""
    return b"\n"


def text_chunk(text: str, exchange: Exchange, model: ServedModel) -> bytes:
    """One line of a streamed answer."""
    return json_bytes({"text": text}) + b"\n"


def report_contents(report: Report, exchange: Exchange, model: ServedModel) -> dict[str, Any]:
    """What every answer says of a report, whatever the request asked for."""
    contents: dict[str, Any] = {
        "report": report.text,
        "sections": {"findings": report.findings, "impression": report.impression},
        "status": report.status,
        "finish_reason": report.finish_reason,
        "num_tokens": report.num_tokens,
        "avg_logprob": report.avg_logprob,
        "alternatives": [{"report": a.text, "avg_logprob": a.avg_logprob} for a in report.alternatives],
        "model": dataclasses.asdict(model),
        "warnings": list(report.warnings),
        "timing_ms": timing_ms(report, exchange),
        "request_id": exchange.name,
    }
    if report.sentences is not None:
        contents["sentences"] = [dataclasses.asdict(sentence) for sentence in report.sentences]
    sequences: list[Report | Alternative] = [report, *report.alternatives]
    for sequence, of_sequence in zip(sequences, [contents, *contents["alternatives"]], strict=True):
        if sequence.regions is not None:
            of_sequence["regions"] = [region_contents(region) for region in sequence.regions]
        if sequence.reasoning is not None:
            of_sequence["reasoning"] = sequence.reasoning
    return contents


def region_contents(region: Region) -> dict[str, Any]:
    """What is answered of a region; pixels to a hundredth."""
    contents = dataclasses.asdict(region)
    contents["picture_box"] = _round(list(region.picture_box))
    contents["box"] = None if region.box is None else [round(side, 2) for side in region.box]
    return contents


def report_answer(report: Report, exchange: Exchange, model: ServedModel) -> Answer:
    """The answer that carries a report; in a stream the text that has not been sent precedes it."""
    contents = report_contents(report, exchange, model)
    contents |= {name: _round(values.tolist()) for name, values in report.insights.items()}
    if report.pictures:
        contents["images"] = [base64.b64encode(picture).decode() for picture in report.pictures]
    if exchange.return_token_ids:
        contents["token_ids"] = list(report.token_ids)
    if exchange.request.return_logprobs:
        contents["tokens"] = [dataclasses.asdict(token) for token in report.tokens]
        for alternative, contents_of in zip(report.alternatives, contents["alternatives"], strict=True):
            contents_of["tokens"] = [dataclasses.asdict(token) for token in alternative.tokens]
    rest = report.text[exchange.sent_characters :] if exchange.stream else ""
    body = (text_chunk(rest, exchange, model) if rest else b"") + json_bytes(contents) + b"\n"
    return Answer(200, body, content_type(exchange))


def model_answer(model: ServedModel) -> Answer:
    """The answer to a client that asks the management API to describe the model."""
    return Answer(200, json_bytes(dataclasses.asdict(model)), JSON)


def failure_answer(failure: Failure, name: str, exchange: Exchange | None = None) -> Answer:
    """The answer that carries an error. The code is in the body too, because gRPC loses the status."""
    error = {"code": failure.code, "type": failure.type, "message": failure.message, "request_id": name}
    return Answer(failure.code, json_bytes({"error": error}) + b"\n", JSON)


def timing_ms(report: Report, exchange: Exchange) -> dict[str, float]:
    """Milliseconds in each part of the way, the wait before the handler included."""
    parts = {name: report.timing_ms.get(name, 0.0) for name in ("preprocess", "vision", "decode", "queue")}
    parts["queue"] += exchange.queued_ms
    return {name: round(milliseconds, 3) for name, milliseconds in parts.items()}


def json_bytes(contents: Any) -> bytes:
    """JSON as bytes. Raises ValueError for NaN and infinity: a report that has such a number must not leave."""
    return json.dumps(contents, ensure_ascii=False, allow_nan=False).translate(_LINE_ENDS).encode()


def _round(values: Any) -> Any:
    """Nested lists of numbers with six digits, all that float32 knows."""
    return [_round(value) for value in values] if isinstance(values, list) else float(f"{values:.6g}")
