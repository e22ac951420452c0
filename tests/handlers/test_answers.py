"""Answers, errors and metrics have every part, with the values that a hand computes."""

import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from handlers.exchange import Exchange
from handlers.failure import INTERNAL, Failure, attempt
from handlers.metrics import KINDS, Metrics
from handlers.response import Answer, ServedModel, failure_answer, model_answer, report_answer, text_chunk, timing_ms
from prelim.errors import NonFiniteOutput, UnreadableInput
from prelim.generation.confidence import Sentence
from prelim.report import Alternative, Region, Report
from prelim.report_generator import ReportRequest

IMAGE = b"\x89PNG"


def report(**changes: Any) -> Report:
    """A report with every part."""
    values: dict[str, Any] = {
        "text": "abcdef", "findings": "abc", "impression": "def", "finish_reason": "eos", "token_ids": (4, 5, 3),
        "avg_logprob": -0.25, "alternatives": (Alternative("other", -1.5, "eos", 2),), "warnings": ("w",),
        "timing_ms": {"queue": 1.00049, "preprocess": 2.0, "vision": 3.0, "decode": 4.0},
    }  # fmt: skip
    return Report(**(values | changes))


MODEL = ServedModel("m", "1", "a", "0" * 64)


def exchange_of(**changes: Any) -> Exchange:
    """An exchange."""
    return Exchange(ReportRequest(image=IMAGE), queued_ms=10.0, **changes)


def test_answer_has_every_part() -> None:
    """The whole JSON object of a report."""
    answer = report_answer(report(), exchange_of(name="r1", return_token_ids=True), MODEL)

    assert (answer.code, answer.content_type, answer.phrase) == (200, "application/json", "OK")
    assert answer.body.endswith(b"}\n")
    assert json.loads(answer.body) == {
        "report": "abcdef",
        "sections": {"findings": "abc", "impression": "def"},
        "status": "UNVERIFIED",
        "finish_reason": "eos",
        "num_tokens": 3,
        "avg_logprob": -0.25,
        "alternatives": [{"report": "other", "avg_logprob": -1.5}],
        "model": {"name": "m", "version": "1", "architecture": "a", "sha256": "0" * 64}
        | {"licence": "GAP", "use": "GAP"},
        "warnings": ["w"],
        "timing_ms": {"preprocess": 2.0, "vision": 3.0, "decode": 4.0, "queue": 11.0},
        "request_id": "r1",
        "token_ids": [4, 5, 3],
    }
    seen = Region("abc", 0, 3, (1.005, 2.0, 30.25, 40.0), (0.1, 0.2, 0.3, 0.4))
    other = Alternative("other", -1.5, "eos", 2, regions=(), reasoning="why")
    full = json.loads(
        report_answer(report(regions=(seen,), reasoning="so", alternatives=(other,)), exchange_of(), MODEL).body
    )
    assert full["regions"] == [
        {"text": "abc", "start": 0, "end": 3, "box": [1.0, 2.0, 30.25, 40.0]}
        | {"picture_box": [0.1, 0.2, 0.3, 0.4], "image": 1}
    ]
    assert full["reasoning"] == "so"
    assert full["alternatives"][0] == {"report": "other", "avg_logprob": -1.5, "regions": [], "reasoning": "why"}
    features = report(regions=(replace(seen, box=None),))
    assert json.loads(report_answer(features, exchange_of(), MODEL).body)["regions"][0]["box"] is None
    sure = report(sentences=(Sentence("abc.", 0.95, confirm=False), Sentence("def", 0.25, confirm=True)))
    assert json.loads(report_answer(sure, exchange_of(), MODEL).body)["sentences"] == [
        {"text": "abc.", "confidence": 0.95, "confirm": False},
        {"text": "def", "confidence": 0.25, "confirm": True},
    ]
    assert "token_ids" not in json.loads(report_answer(report(), exchange_of(), MODEL).body)
    assert timing_ms(report(timing_ms={}), exchange_of()) == {"preprocess": 0, "vision": 0, "decode": 0, "queue": 10}


@pytest.mark.parametrize(("sent", "first"), [(0, "abcdef"), (4, "ef"), (6, None)])
def test_stream_ends_with_the_rest_and_the_report(sent: int, first: str | None) -> None:
    """Text that was sent is not repeated, and a line without text is not sent."""
    answer = report_answer(report(), exchange_of(stream=True, sent_characters=sent), MODEL)
    lines = [json.loads(line) for line in answer.body.splitlines()]

    assert answer.content_type == "application/x-ndjson"
    assert [line["text"] for line in lines if "text" in line] == ([] if first is None else [first])
    assert lines[-1]["report"] == "abcdef"


def test_numbers_that_json_does_not_know_do_not_leave() -> None:
    """NaN is an error of the server, and signs that some clients take for the end of a line are escaped."""
    with pytest.raises(ValueError, match="JSON"):
        report_answer(report(avg_logprob=float("nan")), exchange_of(), MODEL)
    assert (
        text_chunk("a\u2028b\u2029c\x85é", exchange_of(), MODEL) == '{"text": "a\\u2028b\\u2029c\\u0085é"}\n'.encode()
    )


def test_insights_have_six_digits() -> None:
    """All that float32 knows, in nested lists."""
    maps = np.array([[0.123456789, 1.0], [1e-9, 2.5]])
    answer = report_answer(report(insights={"attention": maps}), exchange_of(), MODEL)
    assert json.loads(answer.body)["attention"] == [[0.123457, 1.0], [1e-9, 2.5]]


def test_errors_say_their_code_twice() -> None:
    """In the status and in the body."""
    answer = failure_answer(Failure(413, "TooLarge", "too many"), "case-7")
    body = b'{"error": {"code": 413, "type": "TooLarge", "message": "too many", "request_id": "case-7"}}\n'
    assert answer == Answer(413, body, "application/json")
    assert answer.phrase in ("Request Entity Too Large", "Content Too Large")
    assert json.loads(model_answer(MODEL).body)["sha256"] == "0" * 64


def test_causes_of_server_errors_are_logged_by_type_and_place(caplog: pytest.LogCaptureFixture) -> None:
    """The text of an exception may quote the input; a client's mistake is not logged."""
    caplog.set_level(logging.INFO)

    def fail() -> None:
        raise ZeroDivisionError("patient")

    assert attempt(fail) is INTERNAL
    assert attempt(lambda: 5) == 5
    assert INTERNAL.code == 500
    error = NonFiniteOutput("nan")
    try:
        fail()
    except ZeroDivisionError as cause:
        error.__cause__ = cause
    assert Failure.of(error) == Failure(500, "NonFiniteOutput", "nan")
    refused = UnreadableInput("no")
    refused.__cause__ = error.__cause__
    assert Failure.of(refused) == Failure(400, "UnreadableInput", "no")
    lines = [json.loads(record.getMessage()) for record in caplog.records]
    assert [(line["reason"], line["place"].split(":")[0]) for line in lines] == [
        ("ZeroDivisionError", "test_answers.py")
    ] * 2
    assert "patient" not in caplog.text


class Cache:
    """TorchServe's metric cache, which notes what is written."""

    def __init__(self) -> None:
        self.written: list[tuple[str, float, list[str]]] = []

    def get_metric(self, name: str, kind: object) -> Any:
        """A metric by name."""
        assert KINDS[name] is kind
        cache = self

        class Metric:
            def add_or_update(self, value: float, dimensions: list[str]) -> None:
                cache.written.append((name, value, dimensions))

        return Metric()


def test_metrics_have_units_and_dimensions() -> None:
    """Seconds, ratios and counts, by model; refused requests by their code too."""
    cache = Cache()
    metrics = Metrics(cache, "m")
    metrics.report(report(), exchange_of())
    metrics.failure(Failure(500, "NonFiniteOutput", ""))
    metrics.failure(Failure(400, "InvalidOption", ""))
    metrics.canceled(2)
    metrics.batch(3, 4)
    metrics.active(5)
    metrics.drafts(8, 6)
    metrics.drafts(0, 0)
    metrics.describe(4, compiled=True, instructions="avx2")

    of_model = ["m", "Model"]
    assert cache.written == [
        ("prelim_preprocess_seconds", 0.002, of_model),
        ("prelim_vision_seconds", 0.003, of_model),
        ("prelim_decode_seconds", 0.004, of_model),
        ("prelim_queue_seconds", 0.011, of_model),
        ("prelim_report_seconds", pytest.approx(0.007, abs=1), of_model),
        ("prelim_tokens_generated_total", 3, of_model),
        ("prelim_rejected_total", 1, ["500", "NonFiniteOutput", *of_model]),
        ("prelim_non_finite_total", 1, of_model),
        ("prelim_rejected_total", 1, ["400", "InvalidOption", *of_model]),
        ("prelim_cancelled_total", 2, of_model),
        ("prelim_batch_occupancy_ratio", 0.75, of_model),
        ("prelim_active_requests", 5, of_model),
        ("prelim_draft_tokens_total", 8, of_model),
        ("prelim_accepted_tokens_total", 6, of_model),
        *((f"prelim_{name}_tokens_total", 0, of_model) for name in ("draft", "accepted")),
        *((name, 0, of_model) for name in ("prelim_tokens_generated_total", "prelim_non_finite_total")),
        *((name, 0, of_model) for name in ("prelim_cancelled_total", "prelim_active_requests")),
        ("prelim_rejected_total", 0, ["500", "InternalError", *of_model]),
        ("prelim_rejected_total", 0, ["500", "NonFiniteOutput", *of_model]),
        ("prelim_rejected_total", 0, ["504", "DeadlineExceeded", *of_model]),
        ("prelim_slots", 4, of_model),
        ("prelim_compiled_step", 1, ["avx2", *of_model]),
    ]
