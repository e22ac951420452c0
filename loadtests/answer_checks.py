"""Check that a body is the report that was requested; status 200 alone does not prove it."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from loadtests.traffic import PlannedRequest

_SHA256 = re.compile(r"[0-9a-f]{64}")
_TIMINGS = ("preprocess", "vision", "decode", "queue")


class WrongAnswer(Exception):
    """The body of a 200 is not the requested report. The message names the field and never quotes the report."""


def check_report(answer: Mapping[str, Any], request: PlannedRequest, model: str) -> None:
    """Check a report field by field.

    model : name under which the model is served

    Raises WrongAnswer naming the first wrong field.
    """
    for name, right in _FIELDS.items():
        if name not in answer:
            raise WrongAnswer(f"{name} is missing")
        if not right(answer[name]):
            raise WrongAnswer(f"{name} is wrong: a {type(answer[name]).__name__}, or outside its range")
    _check_lengths(answer, request)
    # An archive packaged with --batching dynamic is served as <name>_dynamic.
    if answer["model"]["name"] not in (model, model.removesuffix("_dynamic")):
        raise WrongAnswer(f"model.name is not {model}")


def check_length(answer: Mapping[str, Any], request: PlannedRequest) -> None:
    """Check that the report has exactly the requested number of tokens, the only field that all compared servers have.

    Raises WrongAnswer.
    """
    if not _is_text(answer.get("report")):
        raise WrongAnswer("report is not a string")
    if answer.get("num_tokens") != request.options["max_new_tokens"]:
        raise WrongAnswer(f"num_tokens is not max_new_tokens, {request.options['max_new_tokens']}")


class RepeatCheck:
    """Equal requests must get equal reports, in any batch, over HTTP and gRPC.

    This detects a report sent to the wrong client.
    """

    def __init__(self) -> None:
        self._reports: dict[tuple[object, ...], str] = {}

    def check(self, answer: Mapping[str, Any], request: PlannedRequest) -> None:
        """Compare with the first answer to the same file and options. Raises WrongAnswer."""
        question = (request.payload.label, *sorted(request.options.items()))
        if self._reports.setdefault(question, answer["report"]) != answer["report"]:
            raise WrongAnswer("report differs from that of an earlier equal request")


def _check_lengths(answer: Mapping[str, Any], request: PlannedRequest) -> None:
    most = request.options.get("max_new_tokens")
    if most is not None and answer["num_tokens"] > most:
        raise WrongAnswer(f"num_tokens is above max_new_tokens, {most}")
    if most is not None and answer["finish_reason"] == "length" and answer["num_tokens"] != most:
        raise WrongAnswer(f"finish_reason is length, but num_tokens is not max_new_tokens, {most}")
    others = request.options.get("num_return_sequences", 1) - 1
    if len(answer["alternatives"]) != others:
        raise WrongAnswer(f"alternatives does not have {others} entries")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_logprob(value: Any) -> bool:
    return _is_number(value) and value <= 1e-6


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_sections(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"findings", "impression"}
        and all(text is None or isinstance(text, str) for text in value.values())
    )


def _are_alternatives(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict) and _is_text(each.get("report")) and _is_logprob(each.get("avg_logprob"))
        for each in value
    )


def _is_model(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and all(_is_text(value.get(name)) for name in ("name", "version", "architecture"))
        and isinstance(value.get("sha256"), str)
        and _SHA256.fullmatch(value["sha256"]) is not None
    )


def _are_timings(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(value.get(name)) and value[name] >= 0 for name in _TIMINGS)


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "report": _is_text,
    "sections": _are_sections,
    "status": lambda value: value == "UNVERIFIED",
    "finish_reason": lambda value: value in ("eos", "length", "stop"),
    "num_tokens": lambda value: _is_number(value) and isinstance(value, int) and value >= 1,
    "avg_logprob": _is_logprob,
    "alternatives": _are_alternatives,
    "model": _is_model,
    "warnings": lambda value: isinstance(value, list) and all(isinstance(text, str) for text in value),
    "timing_ms": _are_timings,
}
