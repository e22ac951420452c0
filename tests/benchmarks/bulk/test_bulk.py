"""The arithmetic of the bulk benchmarks; their runs are made by hand."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.bulk.__main__ import BULK, Rate, rate_of, write_images
from benchmarks.bulk.__main__ import table as rates_table
from benchmarks.bulk.job_watch import JobFailed, JobSample, RowCount, watch_job
from benchmarks.bulk.memory import growth


def test_rate_leaves_out_the_start_of_ray() -> None:
    """It counts from when a worker begins to the last report, without what follows; blocks come at once."""
    counts = [(0, 0), (10, 0), (20, 0), (50, 96), (110, 180), (150, 180)]
    samples = [JobSample(s, rows, 0, 0, 2.0 * s, working=s >= 20) for s, rows in counts]

    assert rate_of(samples) == Rate(pytest.approx(2.0), pytest.approx(1.0))


def test_growth_counts_from_the_first_tenth() -> None:
    """What is loaded before is not growth."""
    samples = [JobSample(0, rows, memory, 0, 0) for rows, memory in ((0, 5), (100, 50), (500, 70), (1000, 60))]

    assert growth(samples) == 20


def test_ratio_is_that_of_each_round() -> None:
    """The machine may be twice as fast in one round as in another."""
    found = {BULK: [Rate(2, 1), Rate(4, 1), Rate(6, 2)], "server": [Rate(1, 1), Rate(4, 2), Rate(4, 1)]}
    line = rates_table(found, cores=2).splitlines()[-1]

    assert line == "| server | 2.00 | 2.00 | 1.50 | 2.00 | 1.00 | 1.00 |"


def test_rows_of_a_growing_output(tmp_path: Path) -> None:
    """Counted by file; a note says that a worker has begun."""
    rows = RowCount(tmp_path)
    assert (rows.count(), rows.begun()) == (0, False)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "attempt-0.json").touch()
    assert rows.begun()
    (tmp_path / "reports").mkdir()
    for number in range(2):
        pq.write_table(pa.table({"a": [1, 2, 3]}), tmp_path / "reports" / f"{number}.parquet")
    assert rows.count() == 6


def test_images_are_files_that_differ(tmp_path: Path) -> None:
    """Of ten pictures, which open as usual."""
    files = write_images(12, tmp_path)

    assert len({file.read_bytes() for file in files}) == 12
    assert Image.open(files[0]).tobytes() == Image.open(files[10]).tobytes() != Image.open(files[1]).tobytes()


def test_job_that_fails_is_said(tmp_path: Path) -> None:
    """With its own words, instead of a benchmark of nothing."""
    with pytest.raises(JobFailed, match=r"nothing\.mar does not exist"):
        watch_job([tmp_path, tmp_path.parent / "out", "--model", "nothing.mar"], tmp_path.parent / "out", 0.1)
