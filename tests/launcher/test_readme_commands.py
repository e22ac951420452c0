"""Every command of the README as it is written, from top to bottom: a clone whose path has a space, a dead proxy."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.environment import ROOT
from launcher.ports import API_COUNT, free_ports
from tests.launcher.conftest import Clone

README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = ("docs", "models/demo")
"""What the commands need besides what serving needs."""

pytestmark = [pytest.mark.server, pytest.mark.slow]


def commands() -> list[str]:
    """The blocks of the README that are typed, and the commands in its text, in their order."""
    typed = r"^```(bash|python)\n(?P<block>.*?)^```$|`(?P<line>make [^`]+)`"
    found = []
    for match in re.finditer(typed, README, re.MULTILINE | re.DOTALL):
        block = match["block"] or match["line"]
        found.append(f".venv/bin/python - <<'END'\n{block}END" if match[1] == "python" else block)
    return found


@pytest.fixture
def clone(tiny_mar: Path, tmp_path: Path) -> Iterator[Clone]:
    """A reader's copy, with free ports instead of the usual ones."""
    folder = tmp_path / "my reports"
    folder.mkdir()
    clone = Clone(folder, tiny_mar, free_ports(API_COUNT))
    clone.archive.unlink()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name)
    clone.environment["PRELIM_URL"] = f"http://127.0.0.1:{clone.ports[0]}"
    yield clone
    clone.kill()


def test_every_command_works_as_written(clone: Clone) -> None:
    """Each succeeds; the demo, curl, `make report` and Python give reports; after the last one no server is left."""
    stop = "make stop"
    typed = commands()
    assert [line for line in typed if line.startswith("make ")][-2:] == [stop, "make web"]
    typed.remove(stop)
    # It runs until Ctrl-C and needs nginx: `make test-web` tests the page.
    typed[typed.index("make web")] = "make -n web"

    reports = 0
    for command in [*typed, stop]:
        done = clone.shell(command.replace("http://127.0.0.1:8080", clone.environment["PRELIM_URL"]))

        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        reports += done.stdout.count("UNVERIFIED")
    assert reports >= 7, "four of the demo, and one each of curl, make and Python"
    assert clone.leftovers() == []
