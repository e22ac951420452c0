"""The summary of a run and its exit code."""

import json
from pathlib import Path

import pytest

from loadtests.load import Load
from loadtests.outcomes import (
    SHED,
    SentRequest,
    broken_limits,
    exit_code,
    percentile,
    read_summary,
    summarize,
    table,
    to_json,
)
from loadtests.payloads import Payload, Refusal
from loadtests.sender import Failed
from loadtests.traffic import PlannedRequest

IMAGE = Payload("PNG 0", b"image")
BROKEN = Payload("text", b"text", Refusal(415, "NotAnImage"))
LOAD = Load(max_failure_rate=0.1, max_p95=2)


def outcome(latency: float, failure: Failed | None = None, payload: Payload = IMAGE, at: float = 0.0) -> SentRequest:
    """The outcome of one request."""
    return SentRequest(PlannedRequest(0, at, "HTTP", "raw", payload, "greedy", {}), 0.001, latency, failure)


def code(outcomes: list[SentRequest]) -> int:
    """The exit code of these outcomes."""
    return exit_code(summarize(outcomes), LOAD)


def test_limits_are_inclusive() -> None:
    """A failure rate and a p95 exactly at their limits pass; just above they do not."""
    failed = Failed("500 InternalError")

    assert code([outcome(2.0)] * 9 + [outcome(0.1, failed)]) == 0
    assert code([outcome(2.0)] * 8 + [outcome(0.1, failed)]) == 1
    assert code([outcome(2.001)] * 10) == 1


def test_shed_requests_are_a_separate_group_of_failures() -> None:
    """Shed requests count in the failure rate, and in no group of reports."""
    summary = summarize([outcome(1.0), outcome(0.01, Failed("503", shed=True))])

    assert [(row.name, row.requests, row.failures) for row in summary.rows] == [
        (SHED, 1, 1),
        ("report, greedy", 1, 0),
    ]
    assert summary.failure_rate == 0.5
    assert exit_code(summary, LOAD) == 1


def test_quick_answers_without_report_do_not_lower_the_p95() -> None:
    """The p95 covers reports only: neither refusals nor failures can hide slow reports."""
    quick = [outcome(0.001, payload=BROKEN)] * 500 + [outcome(0.001, Failed("500"))] * 10
    summary = summarize([outcome(3.0)] * 10 + quick)

    assert summary.reports.p95 == 3.0
    assert exit_code(summary, LOAD) == 1


def test_run_without_a_report_fails() -> None:
    """A run with only refusals fails."""
    assert code([outcome(0.1, payload=BROKEN)] * 5) == 1


def test_run_without_a_request_has_no_summary() -> None:
    """A run without outcomes is an error, not a success."""
    with pytest.raises(ValueError, match="proves nothing"):
        summarize([])


def test_reports_per_second_count_correct_reports_until_the_last_answer() -> None:
    """Throughput counts correct reports only, over a time that includes the slowest answer."""
    outcomes = [outcome(1.0, at=0.0), outcome(1.0, at=7.0), outcome(10.0, at=10.0), outcome(1.0, Failed("500"), at=2.0)]

    assert summarize(outcomes).reports_per_s == pytest.approx(3 / 20)
    refused = outcome(1.0, payload=BROKEN, at=1.0)
    assert summarize([*outcomes, refused]).reports_per_s == pytest.approx(3 / 20), "a right refusal is not a report"


def test_closed_loop_counts_answers_within_its_window() -> None:
    """Reports answered outside the window and their times are not counted; failures always are."""
    answers = [outcome(1.0, at=0.0), outcome(5.0, at=6.0), outcome(2.0, at=10.0), outcome(9.0, at=15.0)]
    summary = summarize([*answers, outcome(1.0, Failed("500"), at=30.0)], window=(10.0, 20.0))

    assert summary.reports_per_s == pytest.approx(2 / 10)
    assert summary.reports.p99 == 5.0
    assert summary.failures == {"500": 1}


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentile_is_the_nearest_rank(share: float, expected: int) -> None:
    """The p-th percentile of 1 to 100 is p, in any order; without values it is None."""
    assert percentile(list(range(100, 0, -1)), share) == expected
    assert percentile([], share) is None


def test_summary_survives_its_file(tmp_path: Path) -> None:
    """A summary, its table and its broken limits are unchanged after writing and reading JSON."""
    summary = summarize([outcome(3.0), outcome(0.1, payload=BROKEN), outcome(0.1, Failed("500"))])
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(to_json(summary, LOAD)), encoding="utf-8")

    again, broken = read_summary(path)

    assert again == summary
    assert table(again) == table(summary)
    assert broken == broken_limits(summary, LOAD)
    assert len(broken) == 2
