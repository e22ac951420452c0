"""The encoder benchmark: its arithmetic, and that all runners compute the same."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.encoder import runners as encoder_runners
from benchmarks.encoder.runners import EAGER, OURS, Runner, floor, runners
from benchmarks.encoder.table import Timing, measure, rows, table
from prelim.archive.archive import CONNECTOR, VISION
from prelim.encoding.onnx_session import Array
from prelim.networks.model_folder import read_network

SERVED = f"{OURS}onnxruntime fp32"
BATCH = np.ones((2, 3), dtype=np.float32)


def test_times_are_those_of_one_round() -> None:
    """The ratio of two runners does not change if the machine is twice as fast in one round."""
    found = rows([Timing(SERVED, [0.2, 0.1, 0.2]), Timing("other", [0.4, 0.2, 0.5])])

    assert [(row.median, row.best, row.times) for row in found] == [
        (pytest.approx(200), pytest.approx(100), pytest.approx(1)),
        (pytest.approx(400), pytest.approx(200), pytest.approx(2)),
    ]


def test_floor_has_as_many_operations_and_no_difference() -> None:
    """The product has the requested number of operations, but computes something else."""
    runner = floor(2 * 40**3)
    assert runner.run is not None
    assert runner.run(BATCH).shape == (40, 40)
    _, timing = measure([Runner(SERVED, np.negative), runner], BATCH, 1, lambda _: None)

    assert timing.difference is None
    lines = table(rows([Timing(SERVED, [1.0]), timing])).splitlines()
    # Under other load a note follows the table.
    assert [line for line in lines if line.startswith("|")][-1].endswith("| – |")


def test_refused_runner_does_not_affect_other_rows() -> None:
    """The reasons of a runner that cannot run and of one that fails are below the table."""

    def fail(_: Array) -> Array:
        raise RuntimeError("no such operator\nat line 3")

    turns = [Runner(SERVED, np.negative), Runner("broken", fail), Runner("absent", None, "no compiler")]
    found = rows(measure(turns, BATCH, 2, lambda _: None))

    assert [row.median is None for row in found] == [False, True, True]
    assert "broken: RuntimeError: no such operator\n\nabsent: no compiler" in table(found)


def test_difference_is_relative_to_the_served_output() -> None:
    """A runner with different output has a large difference."""
    turns = [Runner(SERVED, lambda batch: 2 * batch), Runner("other", lambda batch: 2.5 * batch)]
    served, other = measure(turns, BATCH, 1, lambda _: None)

    assert served.difference == 0
    assert other.difference == pytest.approx(0.25)


@pytest.mark.parametrize("part", ["vision", "connector"])
def test_all_runners_compute_the_same(
    tiny_model: Path, tiny_archive: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch and every float32 setting of ONNX Runtime give the served output."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    _, network = read_network(tiny_model)
    file, shape = {"vision": (VISION, (2, 3, 64, 64)), "connector": (CONNECTOR, (2, 4, 576))}[part]
    turns = runners(getattr(network, part), tiny_archive / file, 1, settings=True)
    inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    monkeypatch.setattr("benchmarks.encoder.table.TURN_S", 0)
    timings = {timing.name: timing for timing in measure(turns, inputs, 1, lambda _: None)}

    assert timings["torch.compile"].reason == "there is no C++ compiler"
    exact = [SERVED, EAGER, *(f"ONNX Runtime, {name}" for name in encoder_runners.SETTINGS if "int8" not in name)]
    assert {name: timings[name].reason for name in exact} == dict.fromkeys(exact, "")
    assert all(timings[name].difference < 1e-4 for name in exact)
