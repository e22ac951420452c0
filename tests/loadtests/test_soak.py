"""A soak fails by itself where something grows."""

import csv
import dataclasses
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from export.package import write_archive
from launcher.environment import ROOT
from launcher.local_server import CONFIG
from launcher.ports import read_properties
from loadtests.processes import Held, Sample, count_files, take_held
from loadtests.soak import COUNTS, draw, frontend_limit_mb, judge, main, rise, write_csv

LIMIT = 3000.0
FLAT = [
    # A worker that loads for a third of the time, and then goes up and down.
    Sample(
        seconds=60.0 * i,
        worker_mb=400 + 30 * min(i, 20) + 5 * (i % 2),
        frontend_mb=800,
        gateway_mb=70 + i % 2,
        nginx_mb=20 + i % 3,
        descriptors=120 + i % 3,
        threads=60 + i % 2,
        gateway_descriptors=40 + i % 5,
        gateway_threads=6,
        temporary_files=40,
        logs_mb=0.1 * i,
        largest_log_mb=0.05 * i,
        open_logs=0,
    )
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
    [
        ("worker_mb", 1.5),
        ("frontend_mb", 40),
        ("gateway_mb", 0.1),
        ("nginx_mb", 0.1),
        *((name, 0.5) for name in COUNTS),
    ],
)
def test_what_grows_fails(name: str, slope: float) -> None:
    """And is named."""
    (broken,) = judge(changed(**{name: slope}), LIMIT)
    assert broken.startswith(name)


def test_logs_are_bounded_and_closed() -> None:
    """A log over the size at which it is rotated, or that others may read, is named."""
    found = judge(changed(largest_log_mb=1, open_logs=1), LIMIT)
    assert [line.split()[0] for line in found] == ["largest_log_mb", "open_logs"]


def test_a_process_is_told_from_those_below_it() -> None:
    """Memory of each; descriptors and threads of both; a process that has ended holds nothing."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as first:
        process = psutil.Process(first.pid)
        while len(process.children()) < 1 or take_held(process).below_mb < 1:
            assert first.poll() is None
        held = take_held(process)
        assert held.own_mb > 1
        assert held.threads == 2
        assert held.descriptors >= 6
        assert first.stdin is not None
        first.stdin.close()
    assert take_held(process) == Held(0.0, 0.0, 0, 0)


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
