"""Readers end well on the bytes to begin with, on what has ever failed, and on what a short fuzzing finds."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.environment import ROOT
from tests.fuzz.targets import CORPUS, TARGETS

MAX_CPU_S = 2.0
SECONDS = 1


@pytest.mark.parametrize("name", TARGETS)
def test_known_inputs_end_well(name: str) -> None:
    """With a report or a refusal, in less than 2 s of CPU time."""
    target = TARGETS[name]
    seeds = list(target.seeds())
    assert seeds
    for data in [*seeds, *(path.read_bytes() for path in sorted((CORPUS / name).glob("*-*")))]:
        began = time.process_time()
        target.read(data)
        assert time.process_time() - began < MAX_CPU_S


def test_corpus_has_a_target_for_each_folder() -> None:
    """What has failed is replayed."""
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} <= set(TARGETS)


@pytest.mark.slow
def test_fuzzing_finds_nothing_soon(tmp_path: Path) -> None:
    """A second for each reader of what `make fuzz-coverage` does for ten minutes."""
    pytest.importorskip("atheris", reason="atheris has no wheel for this machine")
    command = [sys.executable, "-m", "tests.fuzz.coverage", *TARGETS, "--seconds", f"{SECONDS}", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("stat::number_of_executed_units") == len(TARGETS)
    assert {folder.name for folder in tmp_path.iterdir()} == set(TARGETS)
