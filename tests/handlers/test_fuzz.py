"""Malformed requests cost little and change no other request's report."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from launcher.local_server import ROOT


@pytest.fixture(scope="module")
def archive(tiny_mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive of the tiny model."""
    folder = tmp_path_factory.mktemp("fuzz")
    zipfile.ZipFile(tiny_mar).extractall(folder)
    return folder


@pytest.mark.parametrize(
    ("malformed", "good", "seed"),
    [(400, 40, 0), *(pytest.param(9500, 500, part, marks=pytest.mark.exhaustive) for part in range(1, 11))],
    ids=["sample", *(f"part{part}" for part in range(1, 11))],
)
def test_malformed_requests_harm_nobody(archive: Path, malformed: int, good: int, seed: int) -> None:
    """Each good report is its report alone; none fails inside; no call takes 2 s of CPU time; memory is as before.

    The parts together are 95,000 malformed requests.
    """
    command = [sys.executable, "-m", "tests.handlers.fuzz", archive, "--malformed", f"{malformed}", "--good", f"{good}"]
    command += ["--seed", f"{seed}"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.stdout, done.stderr
    outcome = json.loads(done.stdout)
    answered = {kind: sum(codes.values()) for kind, codes in outcome["statuses"].items()}
    assert done.returncode == 0, outcome
    assert answered.pop("good") == good
    assert sum(answered.values()) == malformed
