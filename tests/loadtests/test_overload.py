"""What an overload must show."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from loadtests.load import Load
from loadtests.outcomes import SentRequest, read_summary, summarize, to_json
from loadtests.overload import Findings
from loadtests.payloads import Payload
from loadtests.sender import Failed
from loadtests.traffic import PlannedRequest

GOOD = Findings(4.0, 1.0, 1.4, 200, 190, 0.05, 0, 2.0, 0.3, 0.4)


def outcome(at: float, latency: float, failure: Failed | None = None) -> SentRequest:
    """One request."""
    return SentRequest(PlannedRequest(0, at, "HTTP", "raw", Payload("PNG", b"x"), "greedy", {}), 0.0, latency, failure)


def test_good_server_passes() -> None:
    """All within its limits."""
    assert GOOD.broken() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"refusal_p99": 0.1}, "p99 of refusals is 100 ms"),
        ({"refusal_p99": None}, "nothing was refused"),
        ({"p95": 1.51}, "p95 of reports is 1.51 s"),
        ({"failures": 1}, "1 requests failed without a refusal"),
        ({"recovery": 10.1}, "10.1 s after the last arrival"),
        ({"lone_after": 0.61}, "a lone request takes 0.61 s afterwards"),
    ],
)
def test_each_promise_is_checked(change: dict[str, Any], said: str) -> None:
    """And what does not hold is named."""
    (broken,) = dataclasses.replace(GOOD, **change).broken()
    assert said in broken


def test_summary_tells_refusals_from_failures(tmp_path: Path) -> None:
    """How long they took, how many else failed, and when the last answer came; also after it has been in a file."""
    shed, failed = Failed("503 Overloaded", shed=True), Failed("500 InternalError")
    answers = [outcome(0.0, 1.0), outcome(1.0, 0.02, shed), outcome(2.0, 0.04, shed), outcome(2.0, 3.0, failed)]
    summary = summarize(answers)
    assert (summary.shed.requests, summary.shed.p50, summary.shed.p99) == (2, 0.02, 0.04)
    assert (summary.unexpected, summary.drained_s) == (1, 3.0)
    (tmp_path / "summary.json").write_text(json.dumps(to_json(summary, Load())), encoding="utf-8")
    assert read_summary(tmp_path / "summary.json")[0] == summary
