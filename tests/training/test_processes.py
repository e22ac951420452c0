"""Runs in processes of their own: killed, terminated, and two that train together."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from launcher.ports import free_ports
from tests.training.conftest import write_data
from tests.training.small_systems import MODELS, sections
from training.run.run_state import LAST
from training.train import read_command_line, train

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
PATIENCE = 240
"""Seconds to wait for a process that imports and trains for a few of them."""

pytestmark = pytest.mark.slow


Config = Callable[..., Path]
"""Writes the configuration of a run of a small system, which goes into the folder of its name."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has the data and all runs."""
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def config(folder: Path) -> Config:
    """Configurations of runs on the same data."""
    data = write_data(folder / "data")

    def write(name: str, system: str = "mobilenet_graph", **changed: dict[str, object]) -> Path:
        values = sections(system, folder / name, **changed)
        values["dataset"] |= {"format": "open_radiology", "path": str(data), "sections": ["report"]}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


def start(*words: str | Path) -> subprocess.Popen[str]:
    """A Python process, which gets the words as its command line."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run_here(config: Path, *overrides: str) -> None:
    """Train in this process, which need not import everything again."""
    assert train(read_command_line([str(config), *overrides]))


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    """Until the process has written a checkpoint."""
    deadline = time.monotonic() + PATIENCE
    while not (run / LAST).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (run / LAST).exists()


LEFT_ALONE = {"epochs": 6, "batch_size": 4, "ema_decay": 0.9}
STEPS = 12
"""Of that run, on eight pictures."""

SLOWLY = """
import runpy, time
from training.network import optimization
rate = optimization.learning_rate
def learning_rate(*arguments):
    time.sleep(1)
    return rate(*arguments)
optimization.learning_rate = learning_rate
runpy.run_module("training.train", run_name="__main__", alter_sys=True)
"""
"""Training as its command does it, which waits a second in each step: it is stopped before it has ended."""


@pytest.fixture(scope="module")
def left_alone(config: Config, folder: Path) -> dict[str, Tensor]:
    """Weights of a run that nothing stops."""
    run_here(config("whole", optimization=LEFT_ALONE))
    return load_file(folder / "whole" / "model" / "model.safetensors")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_killed_goes_on_exactly(
    config: Config, folder: Path, left_alone: dict[str, Tensor], number: signal.Signals
) -> None:
    """Killed or told to stop after a checkpoint, and resumed, a run has the weights of one left alone, bit for bit."""
    halved = config(number.name, optimization=LEFT_ALONE)
    process = start("-c", SLOWLY, halved, "run.save_every=3")
    wait_for_checkpoint(process, folder / number.name / "run")
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == (-number if number == signal.SIGKILL else 0)
    resumes = "continue with `python -m training.train run.resume=true"
    assert number == signal.SIGKILL or resumes in " ".join(output.split())
    stopped = torch.load(folder / number.name / "run" / LAST, weights_only=True)["progress"]["step"]
    assert 0 < stopped < STEPS
    run_here(halved, "run.resume=true")
    resumed = load_file(folder / number.name / "model" / "model.safetensors")
    assert all(torch.equal(weights, resumed[name]) for name, weights in left_alone.items())


def read_curve(run: Path) -> Tensor:
    """Training losses by step, from the results of a run."""
    return torch.tensor(json.loads((run / "training.json").read_text(encoding="utf-8"))["train"])


@pytest.fixture(scope="module")
def curves(config: Config, folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Loss curves of one process and of two, for each system; dropout and augmentation are on."""
    # Without an accelerator the default is the CPU, for processes that join as well.
    device = "cpu" if torch.accelerator.is_available() else ""
    extras = {
        "augment": {"rotation": 5.0, "noise": 0.02},
        "auxiliary": {"labels": ["finding"]},
        "run": {"device": device},
    }
    configs: dict[int, list[Path]] = {}
    for processes in (1, 2):
        optimization = {"epochs": 3, "batch_size": 2, "accumulate": 2 // processes, "learning_rate": 1e-3}
        configs[processes] = [
            config(f"{system} {processes}", system, optimization=optimization, **extras) for system in MODELS
        ]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    meetings = [word for pair in zip(configs[2], map(str, free_ports(len(MODELS))), strict=True) for word in pair]
    together = start(*torchrun, "-m", "tests.training.train_in_turn", *meetings)
    for path in configs[1]:
        run_here(path)
    output, _ = together.communicate(timeout=PATIENCE)
    assert together.returncode == 0, output
    one, two = ([read_curve(folder / f"{system} {n}" / "run") for system in MODELS] for n in (1, 2))
    return dict(zip(MODELS, zip(one, two, strict=True), strict=True))


@pytest.mark.parametrize("system", MODELS)
def test_two_processes_learn_what_one_does(curves: dict[str, tuple[Tensor, Tensor]], system: str) -> None:
    """Two processes of torchrun have the loss curve of one with twice the accumulation, dropout and augmentation on.

    They compute the same micro-batches with the same random numbers. With two micro-batches a step the curves measured
    here are equal bit for bit, since a sum of two has one order. 1e-3 is allowed for machines that sum otherwise:
    float32 rounding of the gradients, 1e-7 of their size, which AdamW enlarges where they are near 0. Other data or
    other random numbers would differ by 1e-1.
    """
    one, two = curves[system]
    assert len(one) == 6
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)
