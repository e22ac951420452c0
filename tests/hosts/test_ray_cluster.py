"""A bulk job on a Ray cluster of several hosts, of which one is cut off at work."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bulk.output import BLOCK_ROWS
from launcher.environment import ROOT
from tests.bulk.test_cluster import studies  # noqa: F401 - a fixture
from tests.bulk.test_job import BEAMS, STUDIES, command, wait_for_rows
from tests.hosts.network import Host, Network

pytestmark = [pytest.mark.hosts, pytest.mark.slow]

PORT = 6379
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "RAY_USAGE_STATS_ENABLED": "0",
    # A cluster of several hosts wants a token from whoever joins it, or gives it work.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    # Nodes find out that another is lost within seconds instead of half a minute.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@pytest.fixture
def cluster(network: Network, tmp_path: Path) -> Iterator[list[Host]]:
    """A head without work, and two nodes of one processor each."""
    hosts = [network.add_host(name) for name in ("head", "node1", "node2")]
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--object-store-memory=100000000"]
    head = f"{hosts[0].address}:{PORT}"
    for host in hosts:
        role = ["--address", head, "--num-cpus=1"]
        if host is hosts[0]:
            role = ["--head", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false"]
        with (tmp_path / f"{host.name}.log").open("wb") as log:
            command = [*ray, f"--node-ip-address={host.address}", *role]
            started = host.start(command, cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log)
        wait_until_it_runs(tmp_path / f"{host.name}.log")
        assert started.poll() is None
    yield hosts
    for host in reversed(hosts):
        host.end()


def wait_until_it_runs(log: Path) -> None:
    """Wait until a node says that it has joined."""
    for _ in range(600):
        if "Ray runtime started" in log.read_text(encoding="utf-8"):
            return
        time.sleep(0.1)
    pytest.fail(log.read_text(encoding="utf-8"))


def test_host_that_is_cut_off_loses_no_study(
    cluster: list[Host],
    studies: Path,  # noqa: F811
    tiny_mar: Path,
    tmp_path: Path,
) -> None:
    """The other one does the rest, and what the lost one still writes counts once: every study has one row.

    A job without the cluster's token is told so.
    """
    output = tmp_path / "out"
    arguments = command(studies, output, tiny_mar, "--option", BEAMS, "--address", f"{cluster[0].address}:{PORT}")
    stranger = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("RAY_AUTH")}
    options = {"cwd": ROOT, "env": stranger | {"HOME": str(tmp_path)}, "stderr": subprocess.PIPE, "text": True}
    _, refused = cluster[0].start(arguments, **options).communicate(timeout=120)
    assert "no Ray cluster at" in refused
    assert "RAY_AUTH_TOKEN" in refused

    with (tmp_path / "job.log").open("wb") as log:
        job = cluster[0].start(arguments, cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log)
    wait_for_rows(output, 2 * BLOCK_ROWS, job)
    cluster[2].disconnect()
    job.wait(300)

    assert job.returncode == 0, (tmp_path / "job.log").read_text(encoding="utf-8", errors="replace")
    # Its worker is not dead, and does not know that it is alone.
    cluster[2].end()
    found = pq.read_table(output / "reports").to_pylist()
    assert sorted(row["study_id"] for row in found) == [f"{number:03d}" for number in range(STUDIES)]
    assert all(row["error"] is None for row in found)
