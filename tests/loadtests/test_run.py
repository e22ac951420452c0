"""A real server under load."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.local_server import LocalServer
from loadtests.load import Load
from loadtests.outcomes import SHED, read_summary
from loadtests.run import run_load, serve_and_load

LOAD = Load(rate=3, seconds=10, max_p95=30)


@pytest.fixture(scope="module")
def server(tiny_mar: Path) -> Iterator[LocalServer]:
    """A server that is ready for that archive."""
    with LocalServer(tiny_mar.parent) as server:
        server.wait_until_ready(tiny_mar.stem)
        yield server


@pytest.mark.server
def test_server_handles_a_modest_load(tiny_mar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten seconds of mixed load give correct answers over both transports, exit code 0, a table, HTML and CSV."""
    assert serve_and_load(tiny_mar, LOAD, tmp_path) == 0

    summary, broken = read_summary(tmp_path / "summary.json")
    assert broken == []
    assert summary.failures == {}
    assert {row.transport for row in summary.rows} == {"HTTP", "gRPC"}
    assert SHED not in {row.name for row in summary.rows}
    assert summary.reports_per_s > 1
    assert "reports per second" in capsys.readouterr().out
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert "Aggregated" in (tmp_path / "locust_stats.csv").read_text(encoding="utf-8")


@pytest.mark.server
def test_impossible_p95_fails_the_run(server: LocalServer, tiny_mar: Path, tmp_path: Path) -> None:
    """A p95 limit of one millisecond gives exit code 1 in spite of correct answers."""
    load = dataclasses.replace(LOAD, seconds=4, max_p95=0.001)

    assert run_load(server, tiny_mar.stem, load, tmp_path) == 1

    summary, broken = read_summary(tmp_path / "summary.json")
    assert summary.failures == {}
    assert [limit.split()[0] for limit in broken] == ["p95"]


@pytest.mark.server
def test_failures_fail_the_run(server: LocalServer, tmp_path: Path) -> None:
    """A model that is not served fails every request and the run."""
    load = dataclasses.replace(LOAD, seconds=4)

    assert run_load(server, "absent", load, tmp_path) == 1

    summary, broken = read_summary(tmp_path / "summary.json")
    assert summary.failure_rate == 1
    assert len(broken) == 2
