"""A job on a Ray cluster of two nodes, one of which is lost."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bulk.output import BLOCK_ROWS
from tests.bulk.test_job import BEAMS, STUDIES, command, started, wait_for_rows
from tests.tiny_model import png

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, object]]:
    """The address of a head without work and of two nodes of one processor each; and what ends the second."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Nodes find out that another is lost within seconds instead of half a minute.
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    options = {"include_dashboard": False, "node_ip_address": "127.0.0.2", "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1, **options) for _ in range(2)]
        yield cluster.address, lambda: cluster.remove_node(nodes[1], allow_graceful=False)
    finally:
        cluster.shutdown()


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A table of studies of ten images."""
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    lines = ["id,image", *(f"{number:03d},{number % 10}.png" for number in range(STUDIES))]
    (tmp_path / "studies.csv").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "studies.csv"


def test_lost_node_loses_no_study(cluster: tuple[str, object], studies: Path, tiny_mar: Path, tmp_path: Path) -> None:
    """The other one does the rest; every study has one row."""
    address, lose_node = cluster
    output = tmp_path / "out"
    with started(command(studies, output, tiny_mar, "--option", BEAMS, "--address", address)) as job:
        wait_for_rows(output, 2 * BLOCK_ROWS, job)
        lose_node()  # type: ignore[operator]
        _, errors = job.communicate(timeout=300)

    assert job.returncode == 0, errors
    found = pq.read_table(output / "reports").to_pylist()
    assert sorted(row["study_id"] for row in found) == [f"{number:03d}" for number in range(STUDIES)]
    assert all(row["error"] is None for row in found)
