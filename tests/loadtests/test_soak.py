"""A soak fails by itself where something grows."""

import csv
import dataclasses
from pathlib import Path

import pytest

from export.package import write_archive
from launcher.environment import ROOT
from launcher.local_server import CONFIG
from launcher.ports import read_properties
from loadtests.processes import Sample, count_files
from loadtests.soak import draw, frontend_limit_mb, judge, main, rise, write_csv

LIMIT = 3000.0
FLAT = [
    # A worker that loads for a third of the time, and then goes up and down.
    Sample(60.0 * i, 400 + 30 * min(i, 20) + 5 * (i % 2), 800, 120 + i % 3, 60 + i % 2, 40, 0.1 * i, 0.05 * i, 0)
    for i in range(60)
]


def changed(**slopes: float) -> list[Sample]:
    """The flat run with figures that grow, by so much a minute."""
    return [
        dataclasses.replace(sample, **{name: getattr(sample, name) + slope * i for name, slope in slopes.items()})
        for i, sample in enumerate(FLAT)
    ]


def test_flat_run_passes() -> None:
    """What is loaded at the beginning does not count, nor does what comes and goes."""
    assert judge(FLAT, LIMIT) == []


@pytest.mark.parametrize(
    ("name", "slope"),
    [("worker_mb", 1.5), ("descriptors", 0.5), ("threads", 0.5), ("temporary_files", 0.5), ("frontend_mb", 40)],
)
def test_what_grows_fails(name: str, slope: float) -> None:
    """And is named."""
    (broken,) = judge(changed(**{name: slope}), LIMIT)
    assert broken.startswith(name)


def test_logs_are_bounded_and_closed() -> None:
    """A log over the size at which it is rotated, or that others may read, is named."""
    found = judge(changed(largest_log_mb=1, open_logs=1), LIMIT)
    assert [line.split()[0] for line in found] == ["largest_log_mb", "open_logs"]


def test_rise_is_that_of_the_line() -> None:
    """Of exact lines; outliers change nothing."""
    line = changed(logs_mb=0.9)
    assert rise(line, "logs_mb") == pytest.approx(59.0)
    line[30] = dataclasses.replace(line[30], logs_mb=1e6)
    assert rise(line, "logs_mb") == pytest.approx(59.0)


def test_limit_of_the_frontend_follows_from_its_options() -> None:
    """Heap and buffers; without a limit for both there is none for the process."""
    assert frontend_limit_mb("-Xmx1g -Da=b -XX:MaxDirectMemorySize=512m") == frontend_limit_mb(
        "-Xmx512m -XX:MaxDirectMemorySize=1g"
    )
    with pytest.raises(ValueError, match="no -Xmx"):
        frontend_limit_mb("-Da=-Xmx1g")
    assert frontend_limit_mb(read_properties(CONFIG)["vmargs"]) > 0


def test_results_are_written(tmp_path: Path) -> None:
    """A row for each sample, and a chart."""
    write_csv(FLAT, tmp_path / "soak.csv")
    with (tmp_path / "soak.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(FLAT)
    draw(FLAT, tmp_path / "soak.png", LIMIT)
    assert count_files(tmp_path) == 2


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_nothing_grows_in_ten_minutes(tmp_path: Path) -> None:
    """The short form of `make soak`."""
    archive = write_archive(ROOT / "models" / "demo", tmp_path, batching="in-flight", slots=8)
    assert main(["--archive", str(archive), "--minutes", "10", "--out", str(tmp_path / "out")]) == 0
