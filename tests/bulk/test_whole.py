"""The whole of what tests/bulk/test_job.py samples: thousands of real images, and a hundred thousand rows.

make test-bulk
"""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.bulk.memory import growth, run_rows, table
from bulk.output import BLOCK_ROWS
from bulk.worker import CALLS
from launcher.local_server import LocalServer
from prelim_client.answers import ReportError
from prelim_client.http_client import HttpClient
from tests.bulk.reads import Kills, Reads
from tests.bulk.test_job import WORKERS, command, kill_worker, started, wait_for_rows, written, written_ids

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "model_store" / "demo.mar"
IMAGES, ROWS = 2000, 100_000

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(3600)]


def finish(job: "subprocess.Popen[str]") -> None:
    """Wait until a job has ended well, and show what it says."""
    output, errors = job.communicate(timeout=1800)
    assert job.returncode == 0, errors
    print(output)


def answer_of(client: HttpClient, image: Path) -> tuple[str | None, list[int] | None, str | None]:
    """Report, token ids and kind of error that the server gives for an image."""
    try:
        answer = client.report(image.read_bytes(), return_token_ids=True)
    except ReportError as error:
        return None, None, error.type
    return answer["report"], answer["token_ids"], None


def run_with_kills(images: Path, output: Path, kills: Kills) -> None:
    """Run a job, kill an actor and the driver, and the driver again; check that the third run does only the rest."""
    arguments = command(images, output, DEMO)
    for kill in range(2):
        with started(arguments) as job:
            wait_for_rows(output, (2 * kill + 1) * IMAGES // 5, job)
            if kill == 0:
                before = written(output)
                kill_worker(job.pid)
                kills.note(studies_of(output), 1)
                wait_for_rows(output, before + 2 * BLOCK_ROWS, job)
            job.kill()
            job.wait()
        kills.note(studies_of(output), WORKERS)
    before = written(output)
    parts = {part.name for part in (output / "reports").glob("*.parquet")}
    with started(arguments) as job:
        finish(job)
    new = json.loads((output / "summary.json").read_text(encoding="utf-8"))["new"]
    # Workers of the killed run may have ended what they had in hand, before the next run took over.
    assert IMAGES - before - WORKERS * CALLS * BLOCK_ROWS <= new <= IMAGES - before
    assert parts <= {part.name for part in (output / "reports").glob("*.parquet")}


def studies_of(output: Path) -> set[str]:
    """The studies that have a row now; their ids are names of files, of which Kills wants the stems."""
    return {Path(name).stem for name in written_ids(output)}


def compare_with_server(rows: Sequence[Mapping[str, Any]], images: Path) -> None:
    """Report, token ids and error of each row are what the server answers."""
    with LocalServer(DEMO.parent) as server, ThreadPoolExecutor(8) as users:
        server.wait_until_ready("demo")
        client = HttpClient(server.url, server.key(), "demo")
        answers = users.map(lambda row: answer_of(client, images / row["study_id"]), rows)
        for row, answer in zip(rows, answers, strict=True):
            assert answer == (row["report"], row["token_ids"], row["error"]), row["study_id"]


def test_two_thousand_images_with_kills(shared: Path, tmp_path: Path) -> None:
    """2,000 rows, with the token ids of the server, though the driver is killed twice and an actor once.

    None with a row is decoded again, and of the others at most those that the killed actors had in hand.
    """
    # Others may read the shared ones meanwhile.
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((shared / "data" / "open_radiology" / "images").iterdir())[:IMAGES]:
        shutil.copy(path, images)
    with Reads(images) as reads:
        kills = Kills(reads)
        run_with_kills(images, tmp_path / "out", kills)
        print(kills.check(CALLS * BLOCK_ROWS))
        assert len(reads.counts()) == IMAGES
    rows = pq.read_table(tmp_path / "out" / "reports").to_pylist()

    assert sorted(row["study_id"] for row in rows) == sorted(path.name for path in images.iterdir())
    compare_with_server(rows, images)


def test_driver_does_not_grow_with_the_rows(tiny_mar: Path, tmp_path: Path) -> None:
    """Its memory over 100,000 rows is flat once a tenth of them is written."""
    samples = run_rows(tiny_mar, ROWS, tmp_path, "--workers", f"{WORKERS}")
    print(table(samples))

    assert growth(samples) < 50 * 2**20
