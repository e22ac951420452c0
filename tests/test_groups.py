"""`pytest -n` keeps tests together that share fixtures, and begins with the slow ones."""

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.mark.parametrize("number", range(4))
{mark}
def test_a_process_takes_it(number, worker_id):
    with open("order", "a") as file:
        print(__file__, worker_id, file=file)
"""
FILES = {
    "tests/a/test_fast.py": "",
    "tests/a/test_slow.py": "@pytest.mark.slow",
    "tests/server/test_one.py": "@pytest.mark.server",
    "tests/server/test_two.py": "@pytest.mark.server",
    "tests/model_src/generation/test_compiled.py": "",
    "tests/model_src/kernels/test_compiled_too.py": "",
}


def test_groups_stay_together(tmp_path: Path) -> None:
    """A file has one process, the files of the server have one, those of compiled steps too; fast files come last."""
    for name, mark in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TESTS.format(mark=mark), encoding="utf-8")
    options = ["-p", "tests.groups", "--no-loadscope-reorder", "-n", "2", "-W", "ignore", "--rootdir", "."]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}

    subprocess.run(
        [sys.executable, "-m", "pytest", *options, *FILES],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )

    order = [line.split() for line in (tmp_path / "order").read_text(encoding="utf-8").splitlines()]
    workers = defaultdict(set)
    for name, worker in order:
        workers[Path(name).relative_to(tmp_path).as_posix()].add(worker)
    assert workers.keys() == FILES.keys()
    assert all(len(found) == 1 for found in workers.values())
    assert workers["tests/server/test_one.py"] == workers["tests/server/test_two.py"]
    assert workers["tests/server/test_one.py"] != workers["tests/a/test_slow.py"]
    one, other = (workers[name] for name in FILES if name.startswith("tests/model_src/"))
    assert one == other
    firsts = {worker: Path(name).name for name, worker in reversed(order)}
    assert set(firsts.values()) == {"test_slow.py", "test_one.py"}
