"""Runs in processes of their own: killed, terminated, and two that train together."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.training.small_systems import MODELS, sections
from training.run.run_state import LAST
from training.train import read_command_line, train

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
PATIENCE = 240
"""Seconds to wait for a process that imports and trains for a few of them."""

pytestmark = pytest.mark.slow


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the configuration of a run of a small system."""

    def write(
        name: str, system: str = "mobilenet_graph", *, dropout: bool = True, **changed: dict[str, object]
    ) -> Path:
        values = sections(system, tmp_path / name, dropout=dropout, **changed)
        values["dataset"] |= {"format": "open_radiology", "path": str(data), "sections": ["report"]}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


def start(config: Path, *overrides: str, launcher: Sequence[str] = (sys.executable,)) -> subprocess.Popen[str]:
    """The command line, in a process of its own."""
    command = [*launcher, "-m", "training.train", str(config), *overrides]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def run_here(config: Path) -> None:
    """The same in this process, which need not import everything again."""
    assert train(read_command_line([str(config)]))


def finish(process: subprocess.Popen[str]) -> str:
    """What a process says until it ends well."""
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    return output


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    """Until the process has written a checkpoint."""
    deadline = time.monotonic() + PATIENCE
    while not (run / LAST).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (run / LAST).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_killed_goes_on_exactly(config: Callable[..., Path], tmp_path: Path, number: int) -> None:
    """Killed or told to stop after a checkpoint, and resumed, a run has the weights of one left alone, bit for bit."""
    optimisation = {"epochs": 30, "batch_size": 4, "ema_decay": 0.9}
    whole, halved = (config(name, optimisation=optimisation) for name in ("whole", "halved"))
    run_here(whole)
    process = start(halved, "run.save_every=3")
    wait_for_checkpoint(process, tmp_path / "halved" / "run")
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == (-number if number == signal.SIGKILL else 0)
    resumes = "continue with `python -m training.train run.resume=true"
    assert number == signal.SIGKILL or resumes in " ".join(output.split())
    stopped = torch.load(tmp_path / "halved" / "run" / LAST, weights_only=True)["progress"]["step"]
    assert 0 < stopped < 60
    finish(start(halved, "run.resume=true"))
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "halved"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("system", MODELS)
def test_two_processes_learn_what_one_does(config: Callable[..., Path], tmp_path: Path, system: str) -> None:
    """Two processes of torchrun have the loss curve of one with twice the accumulation, dropout and augmentation on.

    They compute the same micro-batches with the same random numbers. With two micro-batches a step the curves measured
    here are equal bit for bit, since a sum of two has one order. 1e-3 is allowed for machines that sum otherwise:
    float32 rounding of the gradients, 1e-7 of their size, which AdamW enlarges where they are near 0. Other data or
    other random numbers would differ by 1e-1.
    """
    extras = {"augment": {"rotation": 5.0, "noise": 0.02}, "auxiliary": {"labels": ["finding"]}}
    curves = []
    for name, accumulate in (("one", 2), ("two", 1)):
        optimisation = {"epochs": 6, "batch_size": 2, "accumulate": accumulate, "learning_rate": 1e-3}
        path = config(name, system, optimisation=optimisation, **extras)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        if name == "one":
            run_here(path)
        else:
            finish(start(path, launcher=launcher))
        summary = json.loads((tmp_path / name / "run" / "training.json").read_text(encoding="utf-8"))
        curves.append(torch.tensor(summary["train"]))
    assert len(curves[0]) == 12
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-3, atol=1e-3)
