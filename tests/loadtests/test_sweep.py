"""A sweep finds the rate above which a server breaks its objective."""

import csv
from pathlib import Path
from typing import Any

import pytest

from loadtests.load import Load
from loadtests.outcomes import RequestGroup, Summary
from loadtests.sweep import RateStep, Running, Sweep, main, summary_line

CAPACITY = 10.0
LONE_S = 0.2


def run(load: Load) -> Summary:
    """What a server with one queue does: latency grows with its utilization, and above its capacity it refuses."""
    rate = 1 / LONE_S if load.closed_loop else load.rate
    used = 0.0 if load.closed_loop else rate / CAPACITY
    count = 50 if load.closed_loop else round(load.rate * load.seconds)
    failures = max(0, round(count * (1 - 1 / used))) if used else 0
    latency = LONE_S / max(0.02, 1 - used)
    row = RequestGroup("all", "report", count, failures, latency, 2 * latency if used else latency, 3 * latency)
    return Summary((row,), row, count, failures / count, rate, 0.0, {"503 shed": failures} if failures else {})


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> list[Load]:
    """The loads of a sweep whose server is `run`."""
    loads: list[Load] = []

    def note(self: Any, load: Load) -> Summary:
        loads.append(load)
        return run(load)

    monkeypatch.setattr(Sweep, "_run", note)
    return loads


def climb(**values: Any) -> list[RateStep]:
    """All rates over HTTP."""
    sweep = Sweep(Running("http://127.0.0.1:9", "127.0.0.1:9", Path("keys")), "demo", Path("out"), **values)
    return list(sweep.climb("steady", "HTTP"))


def test_rates_rise_until_the_objective_is_broken(swept: list[Load]) -> None:
    """The default objective is five times a lone request; the last rate breaks it, and the one before does not."""
    steps = climb()
    assert [step.held for step in steps] == [True] * (len(steps) - 1) + [False]
    assert {step.objective for step in steps} == {5 * LONE_S}
    assert all(step.p95 is not None and (step.p95 <= 5 * LONE_S) == step.held for step in steps)
    assert steps[-2].rate < CAPACITY * 0.6 < steps[-1].rate
    assert all(load.rate * load.seconds >= 200 for load in swept if not load.closed_loop)
    assert f"saturates at {steps[-2].rate:.2f} requests/s" in summary_line(steps)


def test_failures_break_it_too(swept: list[Load]) -> None:
    """With an objective that latency never breaks, 0.1 % of failures end the climb."""
    steps = climb(objective=1e6)
    assert steps[-2].rate <= CAPACITY < steps[-1].rate
    assert steps[-1].failures > 0
    assert steps[-2].failures == 0


def test_no_rate_is_held(swept: list[Load]) -> None:
    """The line says so."""
    assert "no rate was held" in summary_line(climb(objective=0.001))


def test_results_are_written(swept: list[Load], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line of text and rows of the table for each scenario and transport; a chart; an exit code."""
    assert main(["--scenarios", "steady", "slow", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["steady, HTTP", "steady, gRPC", "slow, HTTP"]
    with (tmp_path / "sweep.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["scenario"], row["transport"]) for row in rows} == {
        *(("steady", "HTTP"), ("steady", "gRPC"), ("slow", "HTTP"))
    }
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert main(["--scenarios", "steady", "--objective", "0.001", "--out", str(tmp_path)]) == 1
