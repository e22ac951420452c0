"""A load test checks the body: anything but the requested report is a failure."""

import copy
from typing import Any

import pytest

from loadtests.answer_checks import RepeatCheck, WrongAnswer, check_length, check_report
from loadtests.payloads import Payload
from loadtests.traffic import PlannedRequest

ANSWER: dict[str, Any] = {
    "report": "The heart is not enlarged.",
    "sections": {"findings": "The heart is not enlarged.", "impression": None},
    "status": "UNVERIFIED",
    "finish_reason": "eos",
    "num_tokens": 7,
    "avg_logprob": -0.5,
    "alternatives": [],
    "model": {"name": "demo", "version": "1.0", "architecture": "mobilenet_graph", "sha256": "0f" * 32},
    "warnings": [],
    "timing_ms": {"preprocess": 1.0, "vision": 2.0, "decode": 3.5, "queue": 0.0},
}


def planned(label: str = "PNG 0", transport: str = "HTTP", **options: Any) -> PlannedRequest:
    """A request with these options."""
    return PlannedRequest(0, 0.0, transport, "multipart", Payload(label, b"image"), "greedy", options)


def test_correct_answer_passes() -> None:
    """An answer that meets the contract passes, with the model's name or that of its dynamic variant."""
    check_report(ANSWER, planned(max_new_tokens=16), "demo")
    check_report(ANSWER, planned(max_new_tokens=16), "demo_dynamic")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field in ANSWER
        for value in (None, "", " ", -1, 0.5, float("nan"), [1], {}, "verified", True)
        if (field, value) not in (("report", "verified"), ("avg_logprob", -1))
    ],
)
def test_wrong_field_is_found(field: str, value: Any) -> None:
    """A wrong value in any field is detected, and the message names the field."""
    with pytest.raises(WrongAnswer, match=f"^{field} is wrong"):
        check_report(ANSWER | {field: value}, planned(), "demo")


@pytest.mark.parametrize("field", list(ANSWER))
def test_missing_field_is_found(field: str) -> None:
    """Each field of the contract is required."""
    with pytest.raises(WrongAnswer, match=f"^{field} is missing"):
        check_report({name: value for name, value in ANSWER.items() if name != field}, planned(), "demo")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("model", "name"), "other"),
        (("model", "sha256"), "0f"),
        (("timing_ms", "queue"), -1.0),
        (("timing_ms", "decode"), "3"),
        (("sections", "findings"), 3),
    ],
)
def test_wrong_inner_field_is_found(path: tuple[str, str], value: Any) -> None:
    """Nested fields are checked too."""
    answer = copy.deepcopy(ANSWER)
    answer[path[0]][path[1]] = value

    with pytest.raises(WrongAnswer, match=path[0]):
        check_report(answer, planned(), "demo")


@pytest.mark.parametrize(
    ("changed", "options"),
    [
        ({"num_tokens": 17}, {"max_new_tokens": 16}),
        ({"finish_reason": "length"}, {"max_new_tokens": 16}),
        ({}, {"num_beams": 3, "num_return_sequences": 2}),
        ({"alternatives": [{"report": "Normal.", "avg_logprob": -1.0}]}, {"num_beams": 3}),
    ],
)
def test_answer_must_fit_the_options(changed: dict[str, Any], options: dict[str, Any]) -> None:
    """Lengths and the number of alternatives must match the request."""
    with pytest.raises(WrongAnswer):
        check_report(ANSWER | changed, planned(**options), "demo")


def test_equal_requests_must_get_equal_reports() -> None:
    """A report of another request is detected, even if the two used different transports."""
    repeats = RepeatCheck()
    repeats.check({"report": "Normal."}, planned("PNG 0", max_new_tokens=16))
    repeats.check({"report": "Effusion."}, planned("PNG 1", max_new_tokens=16))
    repeats.check({"report": "Normal."}, planned("PNG 0", "gRPC", max_new_tokens=16))

    with pytest.raises(WrongAnswer, match="report differs"):
        repeats.check({"report": "Effusion."}, planned("PNG 0", "gRPC", max_new_tokens=16))


def test_message_never_quotes_the_report() -> None:
    """The message does not contain the report's text, which could end up in a log."""
    with pytest.raises(WrongAnswer) as raised:
        check_report(ANSWER | {"alternatives": [{"report": "SECRET"}]}, planned(), "demo")

    assert "SECRET" not in str(raised.value)


def test_only_the_length_is_checked_for_compared_servers() -> None:
    """A server without our contract passes with a text of the correct length, and only with that."""
    check_length({"report": "one two", "num_tokens": 2}, planned(max_new_tokens=2))

    for wrong in ({"report": "", "num_tokens": 2}, {"report": "one", "num_tokens": 1}, {"num_tokens": 2}):
        with pytest.raises(WrongAnswer):
            check_length(wrong, planned(max_new_tokens=2))
