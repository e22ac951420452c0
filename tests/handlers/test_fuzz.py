"""Malformed requests cost little and change no other request's report."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from export.package import write_archive
from launcher.local_server import ROOT
from tests.handlers.fuzz import SLOTS
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive of the tiny model."""
    folder = tmp_path_factory.mktemp("fuzz")
    write_archive(write_tiny_model(folder / "tiny"), folder, batching="in-flight", slots=SLOTS)
    zipfile.ZipFile(folder / "tiny.mar").extractall(folder / "unpacked")
    return folder / "unpacked"


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
