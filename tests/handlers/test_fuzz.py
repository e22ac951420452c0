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
    ("malformed", "good"),
    [(1000, 100), pytest.param(10_000, 1000, marks=pytest.mark.exhaustive)],
    ids=["sample", "all"],
)
def test_malformed_requests_harm_nobody(archive: Path, malformed: int, good: int) -> None:
    """Each good report is its report alone; no call takes 2 s of CPU time; memory grows by less than 1.5 GB."""
    command = [sys.executable, "-m", "tests.handlers.fuzz", archive, "--malformed", f"{malformed}", "--good", f"{good}"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.stdout, done.stderr
    outcome = json.loads(done.stdout)
    answered = {kind: sum(codes.values()) for kind, codes in outcome["statuses"].items()}
    assert done.returncode == 0, outcome
    assert answered.pop("good") == good
    assert sum(answered.values()) == malformed
