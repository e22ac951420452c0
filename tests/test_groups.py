"""`pytest -n` keeps tests together that share fixtures, and begins with the slow ones."""

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

from tests.groups import GroupScheduling

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
}


def test_groups_stay_together(tmp_path: Path) -> None:
    """A file has one process, the files of the server have one; fast files come last."""
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
    firsts = {worker: Path(name).name for name, worker in reversed(order)}
    assert set(firsts.values()) == {"test_slow.py", "test_one.py"}


def schedule(names: list[str]) -> tuple[GroupScheduling, list[Mock]]:
    """Tests that three processes begin."""
    config: Any = SimpleNamespace(getvalue=lambda _: ["popen"] * 3, option=SimpleNamespace(loadscopereorder=False))
    scheduling, processes = GroupScheduling(config), [Mock(shutting_down=False) for _ in range(3)]
    for number, process in enumerate(processes):
        process.gateway.id = f"gw{number}"
        scheduling.add_node(process)
        scheduling.add_node_collection(process, names)
    scheduling.schedule()
    return scheduling, processes


def finish(scheduling: GroupScheduling, process: Mock, names: list[str]) -> list[str]:
    """Let a process finish what it was given, and all that it is given then."""
    finished: list[str] = []
    for number, given in enumerate(process.send_runtest_some.call_args_list):
        assert number < len(names)
        for index in given.args[0]:
            scheduling.mark_test_complete(process, index)
            finished.append(names[index])
    return finished


def test_the_first_process_takes_those_that_wait() -> None:
    """As long as there are any, and the others take the rest; whoever has nothing of its kind left helps."""
    waiting = [f"tests/{folder}/test_a.py::test_a" for folder in ("server", "launcher", "bulk", "loadtests")]
    computing = [f"tests/training/test_{i}.py::test_a" for i in range(8)]
    names = waiting + computing

    scheduling, (first, second, third) = schedule(names)
    assert finish(scheduling, first, names) == [*waiting, *computing[4:]]
    assert finish(scheduling, second, names) + finish(scheduling, third, names) == [
        *(computing[0], computing[2], computing[1], computing[3])
    ]

    scheduling, (first, second, third) = schedule(names)
    assert finish(scheduling, second, names) == [computing[0], computing[2], *computing[4:], *waiting[2:]]
    assert finish(scheduling, first, names) == waiting[:2]
