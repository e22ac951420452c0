"""Whole jobs on Ray, as a user starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from bulk.__main__ import main
from bulk.errors import JobError
from bulk.job import _count_workers, _ray
from bulk.output import BLOCK_ROWS, Output
from bulk.settings import Job
from bulk.storage import Location
from bulk.studies import StudyList
from bulk.todo import write_todo
from bulk.worker import CALLS
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.bulk.reads import Kills, Reads
from tests.tiny_model import png

ROOT = Path(__file__).resolve().parent.parent.parent
WORKERS = 2
STUDIES = 400
BEAMS = "num_beams=5"
"""Makes the smallest model slow enough to be killed at work."""

pytestmark = pytest.mark.slow


def arguments_of(source: Path, output: Path, archive: Path, *options: str) -> list[str]:
    """The arguments of a job on this machine."""
    return [str(source), str(output), "--model", str(archive), "--workers", f"{WORKERS}", *options]


def command(source: Path, output: Path, archive: Path, *options: str) -> list[str]:
    """The command line of a job on this machine."""
    return [sys.executable, "-m", "bulk", *arguments_of(source, output, archive, *options)]


@contextmanager
def started(arguments: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A running job; whatever happens, its processes end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    processes: list[psutil.Process] = []
    try:
        yield job
    finally:
        if job.poll() is None:
            processes = psutil.Process(job.pid).children(recursive=True)
            job.kill()
        job.communicate()
        for process in processes:
            if process.is_running():
                process.kill()


def written(output: Path) -> int:
    """Rows that are in the output now."""
    return sum(pq.read_metadata(part).num_rows for part in (output / "reports").glob("*.parquet"))


def written_ids(output: Path) -> set[str]:
    """The studies that have a row now."""
    return set(pq.read_table(output / "reports", columns=["study_id"])["study_id"].to_pylist())


def wait_for_rows(output: Path, rows: int, job: "subprocess.Popen[str]") -> None:
    """Wait until the output has so many rows."""
    for _ in range(3000):
        if output.is_dir() and written(output) >= rows:
            return
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.1)
    pytest.fail(f"{rows} rows were not written in time")


@pytest.fixture(scope="module")
def _one_ray() -> Iterator[None]:
    """One Ray for all jobs of this process: its start takes longer than they do."""
    with _ray(None):
        yield


@pytest.fixture
def addresses(_one_ray: None, monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The addresses at which jobs of this process have asked for Ray; each got the one that runs."""
    found: list[str | None] = []

    @contextmanager
    def running(address: str | None) -> Iterator[None]:
        found.append(address)
        yield

    monkeypatch.setattr("bulk.job._ray", running)
    return found


@pytest.fixture
def run(addresses: list[str | None], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a job to its end, in this process, and returns what it prints."""

    def job(*arguments: Any) -> str:
        assert main(arguments_of(*arguments)) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return job


def kill_worker(driver: int) -> None:
    """Kill one actor of a job."""
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "MapWorker" in " ".join(process.cmdline()):
                process.kill()
                return
    pytest.fail("the job has no actor")


def read(output: Path) -> list[dict[str, Any]]:
    """All rows."""
    rows: list[dict[str, Any]] = pq.read_table(output / "reports").to_pylist()
    return rows


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of STUDIES studies: of 20 images in a row, one is broken, and one is not there."""
    folder = tmp_path_factory.mktemp("studies")
    pictures = [*(png(number) for number in range(18)), b"broken"]
    for number in range(STUDIES):
        if number % 20 < len(pictures):
            (folder / f"{number:03d}.png").write_bytes(pictures[number % 20])
    lines = ["id,image", *(f"{number:03d},{number:03d}.png" for number in range(STUDIES))]
    (folder / "studies.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "studies.csv"


def test_killed_job_goes_on_and_writes_each_study_once(
    studies: Path, tiny_mar: Path, tmp_path: Path, run: Callable[..., str]
) -> None:
    """An actor and then the driver are killed; every study has one row, with the ids that the library gives.

    None with a row is decoded again, and of the others at most those that the killed actors had in hand.
    """
    output = tmp_path / "out"
    with Reads(studies.parent) as reads:
        kills = Kills(reads)
        with started(command(studies, output, tiny_mar, "--option", BEAMS)) as job:
            wait_for_rows(output, 2 * BLOCK_ROWS, job)
            kill_worker(job.pid)
            kills.note(written_ids(output), 1)
            wait_for_rows(output, written(output) + BLOCK_ROWS, job)
            job.send_signal(signal.SIGKILL)
            job.wait()
        kills.note(written_ids(output), WORKERS)
        rows = written(output)
        assert rows < STUDIES
        summary = run(studies, output, tiny_mar, "--option", BEAMS)
        kills.check(CALLS * BLOCK_ROWS)
        assert sum(name.endswith(".png") for name in reads.counts()) == STUDIES * 19 // 20

    found = read(output)
    assert sorted(row["study_id"] for row in found) == [f"{number:03d}" for number in range(STUDIES)]
    assert (
        f"{STUDIES} studies: {STUDIES // 20} FileNotFoundError, {STUDIES // 20} NotAnImage, {STUDIES * 9 // 10} report"
        in summary
    )
    new = json.loads((output / "summary.json").read_text(encoding="utf-8"))["new"]
    # Workers of the killed run may have ended what they had in hand, before the next run took over.
    assert STUDIES - rows - WORKERS * CALLS * BLOCK_ROWS <= new <= STUDIES - rows
    assert list((output / "work").iterdir()) == []

    generator = ReportGenerator.load(tiny_mar)
    options = replace(generator.config.generation, num_beams=5)
    images = [path.read_bytes() for path in (studies.parent / f"{number:03d}.png" for number in range(18))]
    expected = dict(enumerate(generator.generate([ReportRequest(image=image, options=options) for image in images])))
    for row in found:
        report = expected.get(int(row["study_id"]) % 20)
        assert (row["token_ids"] is None) == (report is None)
        if isinstance(report, Report):
            assert (tuple(row["token_ids"]), row["report"]) == (report.token_ids, report.text)


def test_job_that_cannot_write_is_run_again_and_then_has_nothing_to_do(  # noqa: PLR0917 - fixtures
    studies: Path,
    tiny_mar: Path,
    tmp_path: Path,
    run: Callable[..., str],
    addresses: list[str | None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A full disk, or here a folder where its file should be, ends the job with one line; then it can be run again.

    A finished job starts no Ray; with --retry-errors only the studies without a report are new.
    """
    elsewhere, output = Output(Location.of(f"{tmp_path}/elsewhere")), tmp_path / "out"
    elsewhere.begin({})
    block = write_todo(StudyList(Location.of(f"{studies}")), elsewhere, limit=40).name(0)
    obstacle = output / "reports" / f"part-{block}.parquet"
    obstacle.mkdir(parents=True)
    limited = "--limit", "40", "--workers", "1"
    code, said = main(arguments_of(studies, output, tiny_mar, *limited)), capsys.readouterr().err
    assert code == 2
    assert "a worker failed: " in said.splitlines()[-1]
    assert "directory" in said.splitlines()[-1]
    assert "ray.data" not in said

    obstacle.rmdir()
    run(studies, output, tiny_mar, *limited)
    before = {part.name: part.stat().st_mtime_ns for part in (output / "reports").iterdir()}
    speed = json.loads((output / "summary.json").read_bytes())
    assert addresses == [None, None]
    again = run(studies, output, tiny_mar, *limited)
    assert addresses == [None, None]
    assert json.loads((output / "summary.json").read_bytes()) == speed
    assert speed["reports_per_s_and_core"] > 0
    assert "40 studies: 2 FileNotFoundError, 2 NotAnImage, 36 report; nothing was left to do; " in again
    assert {part.name: part.stat().st_mtime_ns for part in (output / "reports").iterdir()} == before

    missing = [studies.parent / f"{number}.png" for number in ("019", "039")]
    try:
        for image in missing:
            image.write_bytes(png(19))
        retried = run(studies, output, tiny_mar, *limited, "--retry-errors")
    finally:
        for image in missing:
            image.unlink()
    assert "40 studies: 2 NotAnImage, 38 report; 4 in " in retried


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nothing", "out", "--model", "{mar}"], "nothing does not exist; give a folder"),
        (["{folder}", "{folder}/out", "--model", "{mar}"], "is in the input folder"),
        (["{studies}", "out", "--model", "nothing.mar"], "nothing.mar does not exist"),
        (["{studies}", "out", "--model", "{studies}"], "damaged"),
        (["{studies}", "out", "--model", "{mar}", "--option", "num_beams=99"], "num_beams is"),
        (["{studies}", "out", "--model", "{mar}", "--address", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1"),
        (["{studies}", "out", "--model", "{mar}", "--address", "head"], "is not HOST:PORT"),
        (["{studies}", "out", "--model", "{mar}", "--address", "\u00e9..:1"], "no Ray cluster at"),
        (["{studies}", "out", "--model", "{mar}", "--slots", "257"], "--slots is 257; allowed: 1 to 256"),
        (["{folder}", "file://{folder}/out", "--model", "{mar}"], "is in the input folder"),
    ],
)
def test_mistakes_are_one_line(  # noqa: PLR0917 - fixtures
    arguments: list[str],
    reason: str,
    studies: Path,
    tiny_mar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And nothing is decoded."""
    monkeypatch.chdir(tmp_path)
    code = main([argument.format(mar=tiny_mar, studies=studies, folder=studies.parent) for argument in arguments])
    said = capsys.readouterr().err.strip()

    assert code == 2
    assert reason in said
    assert len(said.splitlines()) == 1, said
    assert not (tmp_path / "out" / "reports").is_dir() or not list((tmp_path / "out" / "reports").iterdir())


def test_ray_that_does_not_start_is_no_traceback(
    studies: Path, tiny_mar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a busy machine, where Ray gives up after half a minute with a bare exception."""

    def init(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", init)
    assert main(arguments_of(studies, tmp_path / "out", tiny_mar)) == 2
    said = capsys.readouterr().err.strip()
    assert "Ray did not start on this machine, which may be busy: The current node timed out" in said.splitlines()[-1]
    assert "Traceback" not in said


def test_workers_fit_the_machine(studies: Path, tiny_mar: Path) -> None:
    """Ray would wait for ever for processors that it does not have; a cluster may still get them."""
    job = Job(StudyList(Location.of(str(studies))), Location.of(str(tiny_mar)), Location("/out"), threads=3)
    assert [_count_workers(job, 7), _count_workers(replace(job, workers=5), 7)] == [2, 5]
    with pytest.raises(JobError, match="--threads is 3, but this machine has 2 processors"):
        _count_workers(job, 2)
    assert _count_workers(replace(job, address="ray://head:10001"), 2) == 1


def test_calls_bound_what_a_kill_costs() -> None:
    """At most 64 studies of a worker are in hand."""
    assert CALLS * BLOCK_ROWS <= 64
