import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bulk.attempts import Attempts
from bulk.decoding import DecodingThread
from bulk.errors import JobError
from bulk.output import Output
from bulk.settings import Job
from bulk.storage import Location
from bulk.studies import BulkStudy, StudyList
from bulk.todo import Todo, write_todo
from bulk.worker import NO_IMAGE, BlockWorker
from prelim.errors import InternalError, InvalidOption
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest

OPTIONS = {"num_beams": "2", "max_new_tokens": "8"}


@dataclass(frozen=True)
class Work:
    """A job and its blocks."""

    job: Job
    todo: Todo

    def worker(self) -> BlockWorker:
        """One that owns the output."""
        return BlockWorker(self.job, self.todo, "run")


@pytest.fixture
def work(tiny_mar: Path, pictures: Path, tmp_path: Path) -> Work:
    """Work on all pictures."""
    output = Output(Location.of(f"{tmp_path}/out"))
    output.begin({})
    output.own("run")
    source = StudyList(Location.of(str(pictures)))
    return Work(Job(source, Location.of(str(tiny_mar)), output.folder, OPTIONS, slots=3), write_todo(source, output))


def rows(work: Work) -> dict[str, dict[str, Any]]:
    """The output by id."""
    names = ("study_id", "report", "token_ids", "avg_logprob", "error", "message", "status", "read_s", "decode_s")
    tables = Output(work.job.output).columns(*names)
    found = [row for table in tables for row in table.to_pylist()]
    assert len({row["study_id"] for row in found}) == len(found)
    return {row["study_id"]: row for row in found}


def test_reports_are_those_of_the_library(work: Work, tiny_mar: Path) -> None:
    """Whatever else is decoded at the same time; a broken file is a row with its reason."""
    worker = work.worker()
    with ThreadPoolExecutor(3) as calls:
        counts = list(calls.map(lambda block: worker({"block": np.array([block])}), range(3)))
    found = rows(work)
    generator = ReportGenerator.load(tiny_mar)
    options = worker._options
    studies = [study for block in range(3) for study in work.todo.read(block) if study.study_id in found]
    images = [Path(study.images[0]).read_bytes() for study in studies]
    alone = generator.generate([ReportRequest(image=image, options=options) for image in images])

    assert [int(count["reports"][0]) for count in counts] == [32, 32, 6]
    assert [int(count["errors"][0]) for count in counts] == [0, 0, 1]
    assert len(found) == len(studies) == 71
    for study, report in zip(studies, alone, strict=True):
        row = found[study.study_id]
        if isinstance(report, Report):
            assert (row["report"], tuple(row["token_ids"])) == (report.text, report.token_ids)
            assert row["status"] == "UNVERIFIED"
            assert row["decode_s"] > 0
        else:
            assert (row["error"], row["message"]) == (type(report).__name__, str(report))
            assert row["report"] is row["status"] is None
    assert len({row["report"] for row in found.values()}) > 5


def test_written_block_is_not_decoded_again(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """An actor that died after it had written a block leaves nothing to do."""
    worker = work.worker()
    worker({"block": np.array([2])})
    monkeypatch.setattr(worker, "_row", lambda _: pytest.fail("decoded again"))

    assert int(worker({"block": np.array([2])})["reports"][0]) == 7


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (("missing.png",), "FileNotFoundError", "the file does not exist"),
        ((".",), "FileNotFoundError", "the file does not exist"),
        (("empty.png",), "UnreadableInput", "the file is empty"),
        (("nope://a.png",), "JobError", "nope://a.png cannot be opened: Protocol not known: nope"),
        ((), "NoImage", NO_IMAGE),
    ],
)
def test_study_without_a_file_is_a_row(  # noqa: PLR0917 - fixtures
    work: Work, images: tuple[str, ...], error: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never the end of the job."""
    (tmp_path / "empty.png").touch()
    monkeypatch.chdir(tmp_path)
    row = work.worker()._row(BulkStudy("a", images))

    assert (row.error, row.message, row.report) == (error, message, None)


def test_unexpected_error_is_a_row_that_quotes_nothing(
    work: Work, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its text may have patient data; its kind and place do not."""
    worker = work.worker()
    monkeypatch.setattr(worker, "_request", lambda _: {}["DOE^JOHN"])
    row = worker._row(BulkStudy("a", (f"{pictures}/0/00.png",)))

    assert row.error == "InternalError"
    assert row.message is not None
    assert row.message.startswith("unexpected KeyError at test_worker.py:")


def test_images_that_the_model_does_not_read_are_said(work: Work, pictures: Path) -> None:
    """The first is reported on."""
    row = work.worker()._row(BulkStudy("a", (f"{pictures}/0/00.png", f"{pictures}/0/01.png")))

    assert row.report is not None
    assert row.warnings is not None
    assert row.warnings[-1] == "1 of the study's images were not used; the model reads 1"


def test_wrong_option_is_refused_at_once(work: Work) -> None:
    """Not study by study."""
    with pytest.raises(InvalidOption, match="num_beams"):
        replace(work, job=replace(work.job, options={"num_beams": "0"})).worker()


@pytest.mark.parametrize(
    ("change", "field"), [({"prompt": "What?"}, "prompt"), ({"options": {"grammar": "{"}}, "grammar")]
)
def test_what_no_study_could_use_is_refused_at_once(work: Work, change: dict[str, Any], field: str) -> None:
    """What only the model can tell, such as that it reads no prompt: an archive would become errors, row by row."""
    with pytest.raises(JobError, match=f"no study can get a report: .*{field}"):
        replace(work, job=replace(work.job, **change)).worker()({"block": np.array([0])})


def test_study_that_kills_workers_gets_an_error(work: Work) -> None:
    """After two deaths at it alone; the others of its block get their reports."""
    output, block = Output(work.job.output), work.todo.name(2)
    studies = work.todo.read(2)
    assert Attempts(output, block).first  # the worker dies somewhere in the block
    for _ in range(2):
        attempt = Attempts(output, block)
        assert not attempt.first
        survivors = attempt.survivors(studies)
        assert [next(survivors)[1] for _ in range(4)] == [True] * 4  # and dies at the fourth study
    work.worker()({"block": np.array([2])})
    found = rows(work)

    assert found[studies[3].study_id]["error"] == "WorkerDied"
    assert [found[study.study_id]["error"] for study in studies] == [
        *[None] * 3,
        "WorkerDied",
        None,
        None,
        "NotAnImage",
    ]
    assert [file.name for file in output.work.files() if file.name.startswith("attempt")] == []


class Broken:
    """A generator whose step fails once."""

    def __init__(self) -> None:
        self.failed = threading.Event()

    def add(self, key: str, request: ReportRequest) -> None:
        """Take anything."""
        self.key = key

    def step(self, steps: int) -> dict[str, str]:
        """Fail the first time."""
        if not self.failed.is_set():
            self.failed.set()
            raise MemoryError
        return {self.key: Report("fine", None, None, "eos", (1,), 0.0)}

    def reset(self) -> None:
        """Nothing to forget."""


def test_failed_step_ends_those_who_wait_and_nobody_else() -> None:
    """The next request is decoded."""
    decoding = DecodingThread(Broken())  # type: ignore[arg-type]
    with pytest.raises(InternalError) as failure:
        decoding.submit(ReportRequest()).result(10)

    assert isinstance(failure.value.__cause__, MemoryError)
    assert decoding.submit(ReportRequest()).result(10).text == "fine"
