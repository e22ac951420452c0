"""The whole of what tests/bulk/test_job.py samples: thousands of real images, and a hundred thousand rows.

python -m pytest -m exhaustive tests/bulk -s
"""

import json
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from bulk.output import BLOCK_ROWS
from launcher.local_server import LocalServer
from prelim_client.http_client import HttpClient
from tests.bulk.test_job import command, kill_worker, started, wait_for_rows, written
from tests.tiny_model import png

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "model_store" / "demo.mar"
IMAGES, ROWS = 2000, 100_000

pytestmark = pytest.mark.exhaustive


def finish(job: "subprocess.Popen[str]") -> None:
    """Wait until a job has ended well, and show what it says."""
    output, errors = job.communicate(timeout=1800)
    assert job.returncode == 0, errors
    print(output)


def test_two_thousand_images_with_kills(shared: Path, tmp_path: Path) -> None:
    """2,000 rows, with the token ids of the server, though the driver is killed twice and an actor once."""
    if not DEMO.is_file():
        pytest.skip("model_store/demo.mar is not here; `make archive` builds it")
    images = shared / "data" / "open_radiology" / "images"
    output = tmp_path / "out"
    arguments = command(images, output, DEMO, "--limit", f"{IMAGES}")
    for kill in range(2):
        with started(arguments) as job:
            wait_for_rows(output, (2 * kill + 1) * IMAGES // 5, job)
            if kill == 0:
                before = written(output)
                kill_worker(job.pid)
                wait_for_rows(output, before + 2 * BLOCK_ROWS, job)
            job.kill()
            job.wait()
    with started(arguments) as job:
        finish(job)

    rows = pq.read_table(output / "reports").to_pylist()
    names = sorted(path.name for path in images.iterdir())[:IMAGES]
    assert sorted(row["study_id"] for row in rows) == names
    with LocalServer(DEMO.parent) as server:
        server.wait_until_ready("demo")
        client = HttpClient(server.url, server.key(), "demo")
        for row in rows[:: IMAGES // 200]:
            answer = client.report((images / row["study_id"]).read_bytes(), return_token_ids=True)
            assert (answer["report"], answer["token_ids"]) == (row["report"], row["token_ids"])


def test_driver_does_not_grow_with_the_rows(tiny_mar: Path, tmp_path: Path) -> None:
    """Its memory over 100,000 rows is flat once a tenth of them is written."""
    (tmp_path / "image.png").write_bytes(png())
    lines = ["id,image", *(f"{number},image.png" for number in range(ROWS))]
    (tmp_path / "studies.csv").write_text("\n".join(lines), encoding="utf-8")
    memory: list[tuple[int, int]] = []
    with started(command(tmp_path / "studies.csv", tmp_path / "out", tiny_mar, "--option", "max_new_tokens=2")) as job:
        driver = psutil.Process(job.pid)

        def watch() -> None:
            while job.poll() is None:
                memory.append((len(list((tmp_path / "out" / "reports").glob("*.parquet"))), driver.memory_info().rss))
                time.sleep(2)

        threading.Thread(target=watch, daemon=True).start()
        finish(job)

    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["outcomes"] == {"report": ROWS}
    later = [rss for parts, rss in memory if parts > ROWS // BLOCK_ROWS // 10]
    print(f"driver: {later[0] / 2**20:.0f} MB after a tenth, {max(later) / 2**20:.0f} MB at most")
    assert max(later) - later[0] < 50 * 2**20
