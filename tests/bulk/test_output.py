import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk.errors import JobError
from bulk.output import BLOCK_ROWS, GRACE_S, SCHEMA, Output, ReportRow
from bulk.storage import Location
from bulk.studies import StudyList, hash_ids
from bulk.todo import Todo, write_todo

MODEL = {"model": "tiny", "model_version": "1.0", "model_sha256": "0" * 64}
JOB = {"model": "tiny", "sha256": "0" * 64, "options": {"num_beams": 1, "seed": 1}}


@pytest.fixture
def output(tmp_path: Path) -> Output:
    """An empty output."""
    output = Output(Location.of(f"{tmp_path}/out"))
    output.begin(JOB)
    output.own("run")
    return output


def report(study_id: str) -> ReportRow:
    """A row with a report."""
    return ReportRow(study_id, ["a.png"], report="normal.", token_ids=[3], seconds={"decode": 0.5})


def failure(study_id: str) -> ReportRow:
    """A row without one."""
    return ReportRow(study_id, ["a.png"], error="NotAnImage", message="not an image")


def ids(output: Output) -> list[str]:
    """All ids, in the order of the files."""
    return [study_id for table in output.columns("study_id") for study_id in table["study_id"].to_pylist()]


def test_rows_are_unverified_or_errors(output: Output, tmp_path: Path) -> None:
    """A report is UNVERIFIED; a study without one has no status. The schema is the same in every file."""
    output.write_part("r-0", [report("a"), failure("b")], MODEL, "run")
    table = pq.read_table(tmp_path / "out" / "reports")

    assert table.schema.equals(SCHEMA)
    assert table["status"].to_pylist() == ["UNVERIFIED", None]
    assert table["model_sha256"].to_pylist() == ["0" * 64] * 2
    assert table["decode_s"].to_pylist() == [0.5, None]


def test_done_are_the_studies_with_a_row(output: Output) -> None:
    """Errors too: the same file would give the same error."""
    output.write_part("r-0", [report("a"), failure("b")], MODEL, "run")

    assert np.array_equal(output.done(), np.sort(hash_ids(iter(["a", "b"]))))


def test_errors_can_be_tried_again(output: Output) -> None:
    """Their rows go; reports stay; a file of errors alone goes whole."""
    output.write_part("r-0", [report("a"), failure("b")], MODEL, "run")
    output.write_part("r-1", [failure("c")], MODEL, "run")

    assert output.forget_errors() == 2
    assert ids(output) == ["a"]
    assert not output.has_part("r-1")


def test_unfinished_files_do_not_count(output: Output, tmp_path: Path) -> None:
    """What a killed process has left has no row, for other readers too; the next run removes it."""
    output.write_part("r-0", [report("a")], MODEL, "run")
    unfinished = tmp_path / "out" / "reports" / ".part-r-1.parquet.0123.tmp"
    unfinished.write_bytes(b"PAR1")

    assert len(output.done()) == len(pq.read_table(tmp_path / "out" / "reports")) == 1
    output.clean()
    assert [part.name for part in unfinished.parent.iterdir()] == ["part-r-0.parquet"]


def test_workers_of_a_killed_run_write_nothing(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """They live on for seconds, and their studies are those of the next run; it waits for what they have begun."""
    waited: list[float] = []
    monkeypatch.setattr("bulk.output.time.sleep", waited.append)
    output.own("next")
    with pytest.raises(JobError, match="another run has taken over"):
        output.write_part("r-0", [report("a")], MODEL, "run")
    output.write_part("r-0", [report("a")], MODEL, "next")
    with pytest.raises(JobError, match="another run"):
        output.end({}, "run")
    output.end({}, "next")
    with pytest.raises(JobError, match="another run"):
        output.write_part("r-1", [report("b")], MODEL, "next")
    output.own("after an end")

    assert ids(output) == ["a"]
    assert waited == [GRACE_S]


def test_another_job_is_refused(output: Output, tmp_path: Path) -> None:
    """Reports of two models never mix in a folder."""
    output.write_part("r-0", [report("a")], MODEL, "run")
    again = Output(Location.of(f"{tmp_path}/out"))
    again.begin(JOB)
    with pytest.raises(JobError, match=r"has reports of another job: its sha256 is '000.*choose another folder"):
        again.begin({**JOB, "sha256": "1" * 64})
    with pytest.raises(JobError, match=r"its num_beams is 1, this one's 3; choose"):
        again.begin({**JOB, "options": {"seed": 1, "num_beams": 3}})


def test_another_job_may_take_a_folder_without_reports(output: Output) -> None:
    """A job that failed before its first report, for a wrong name say, leaves nothing to mix."""
    other = {**JOB, "sha256": "1" * 64}
    output.begin(other)
    output.own("run")
    output.write_part("r-0", [report("a")], MODEL, "run")
    output.begin(other)
    with pytest.raises(JobError, match="another job"):
        output.begin(JOB)


def damaged_parquet() -> dict[str, bytes]:
    """Contents of a part as a full disk or a loss of power leave it, and as another program writes it."""
    whole = _bytes(pa.Table.from_pylist([report("a").columns() | MODEL], SCHEMA))
    middle = len(whole) // 2
    return {
        "nothing": b"",
        "cut off": whole[:middle],
        "zeros": bytes(len(whole)),
        "zeros in the middle": whole[:20] + bytes(middle) + whole[20 + middle :],
        "no Parquet": b"[]",
        "other columns": _bytes(pa.table({"id": ["a"]})),
        "other values": _bytes(pa.table({"study_id": [["a"]], "error": [None]})),
        "no ids": _bytes(pa.table({"study_id": pa.array([None], pa.string()), "error": [None]})),
    }


def _bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("contents", damaged_parquet().values(), ids=damaged_parquet())
def test_damaged_reports_are_said(contents: bytes, output: Output, tmp_path: Path) -> None:
    """In one line with the file and what to do, whatever reads them; without that file the job continues."""
    output.write_part("r-0", [report("b")], MODEL, "run")
    part = tmp_path / "out" / "reports" / "part-r-1.parquet"
    part.write_bytes(contents)
    for use in (output.done, output.forget_errors, lambda: list(output.columns("study_id", "error"))):
        with pytest.raises(
            JobError, match=r"part-r-1\.parquet is damaged.*remove it, and start the job again"
        ) as error:
            use()
        assert "\n" not in str(error.value)
    part.unlink()
    assert len(output.done()) == 1


def test_all_damaged_reports_are_said_at_once(output: Output, tmp_path: Path) -> None:
    """Nobody starts a job again for each."""
    for number in range(3):
        (tmp_path / "out" / "reports" / f"part-r-{number}.parquet").touch()
    with pytest.raises(JobError, match=r"part-r-0.* \(and 2 more there\)$"):
        output.done()


@pytest.mark.parametrize("contents", [b"", b"[]", b"{", b"null", b"\xff", b'{"model": 1, "model": 2}'])
def test_damaged_record_of_the_job_is_said(contents: bytes, output: Output, tmp_path: Path) -> None:
    """Where there are reports; without them it is written again. A damaged summary counts as none."""
    (tmp_path / "out" / "summary.json").write_bytes(contents)
    assert output.summary() == {}
    record = tmp_path / "out" / "job.json"
    record.write_bytes(contents)
    output.begin(JOB)
    assert json.loads(record.read_bytes()) == JOB
    output.write_part("r-0", [report("a")], MODEL, "run")
    record.write_bytes(contents)
    with pytest.raises(JobError, match=r"job\.json is damaged.*restore it, or choose another folder"):
        output.begin(JOB)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    """They might be the images. A file is not a folder."""
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "a.png").write_bytes(b"")

    with pytest.raises(JobError, match="has other files"):
        Output(Location.of(str(tmp_path))).begin(JOB)
    with pytest.raises(JobError, match=r"a\.png is a file; choose a folder"):
        Output(Location.of(f"{tmp_path}/b/c/a.png")).begin(JOB)


def test_folders_that_a_copy_left_out_are_made_again(output: Output, tmp_path: Path) -> None:
    """Buckets, archives and git have no folders without files."""
    for name in ("reports", "work"):
        shutil.rmtree(tmp_path / "out" / name)
    output.begin(JOB)
    output.own("run")
    output.write_part("r-0", [report("a")], MODEL, "run")
    assert ids(output) == ["a"]


def test_second_row_of_a_study_is_said(output: Output, tmp_path: Path) -> None:
    """A copy of a file with reports: the output has each study once. A file of no readable name is nobody's."""
    output.write_part("r-0", [report("a"), report("b")], MODEL, "run")
    folder = tmp_path / "out" / "reports"
    (folder / os.fsdecode(b"\xff.parquet")).touch()
    assert len(output.done()) == 2
    shutil.copy(folder / "part-r-0.parquet", folder / "copy.parquet")
    with pytest.raises(JobError, match="has a second row for 2 studies; remove what was copied there"):
        output.done()


def listed(todo: Todo) -> list[list[str]]:
    """Ids by block."""
    return [[study.study_id for study in todo.read(block)] for block in range(todo.blocks)]


def test_todo_is_what_has_no_row(output: Output, pictures: Path) -> None:
    """In blocks, in the order of the source."""
    source = StudyList(Location.of(str(pictures)))
    everything = [study.study_id for study in source.read()]
    first = write_todo(source, output)
    output.write_part(first.name(1), [report(study_id) for study_id in listed(first)[1]], MODEL, "run")
    second = write_todo(source, output)

    assert (first.studies, first.total, second.studies, second.total) == (71, 71, 71 - BLOCK_ROWS, 71)
    assert [len(block) for block in listed(first)] == [32, 32, 7]
    assert [study_id for block in listed(first) for study_id in block] == everything
    assert [study_id for block in listed(second) for study_id in block] == everything[:32] + everything[64:]
    assert first.run != second.run


def test_todo_of_the_same_studies_has_the_same_names(output: Output, pictures: Path) -> None:
    """So that a block that was written is not written again under another name."""
    source = StudyList(Location.of(str(pictures)))

    assert write_todo(source, output).name(1) == write_todo(source, output).name(1)


def test_limit_counts_from_the_first_study(output: Output, pictures: Path) -> None:
    """A second run with the same limit has nothing to do."""
    source = StudyList(Location.of(str(pictures)))
    todo = write_todo(source, output, limit=5)
    output.write_part(todo.name(0), [report(study_id) for study_id in listed(todo)[0]], MODEL, "run")

    assert (todo.studies, todo.total) == (5, 5)
    assert write_todo(source, output, limit=5).studies == 0


def test_todo_of_many_blocks_is_in_several_files(
    output: Output, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's directory is read with each block, so it must stay small."""
    monkeypatch.setattr("bulk.todo._FILE_BLOCKS", 2)
    todo = write_todo(StudyList(Location.of(str(pictures))), output)

    assert [len(block) for block in listed(todo)] == [32, 32, 7]
    assert sum(file.name.startswith("todo") for file in output.work.files()) == 2
