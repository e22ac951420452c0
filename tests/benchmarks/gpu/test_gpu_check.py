"""The check of a GPU, on a CPU: all of it runs, with tiny models, and without this project's dependencies."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.decode.point import Point
from benchmarks.gpu import __main__ as program
from benchmarks.gpu.encoder import encoder
from benchmarks.gpu.pair import SHAPES, ModelPair
from prelim.archive.archive import VISION

ROOT = Path(__file__).resolve().parents[3]
SMALL = ("--tokens", "6", "--rounds", "1", "--time-all")
WITH_TRANSFORMERS = {"numpy", "tokenizers", "safetensors", "tqdm", "yaml", "torch"}
"""Modules that are there where PyTorch and transformers are."""

NAMES = {"pyyaml": "yaml", "pillow": "PIL", "python-gdcm": "gdcm", "onnxruntime-gpu": "onnxruntime"}
"""Package -> its module, where that has another name."""


def test_everything_is_checked_and_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Token ids are those of `generate`, at every point; the file, and the last line, have what the table has."""
    out = tmp_path / "gpu.json"
    given = ["--device", "cpu", "--shapes", "tiny-biogpt", "tiny-llama", "--points", "1x1", "2x3", *SMALL]

    assert program.main([*given, "--out", str(out)]) == 0

    record = json.loads(out.read_text(encoding="utf-8"))
    written = capsys.readouterr().out
    assert json.loads(written.splitlines()[-1]) == record
    assert [one["equal"] for one in record["exact"]] == [{"1x1": [True, True], "2x3": [True, True]}] * 2
    rows = [(row["shape"], row["point"]) for row in record["rows"]]
    assert rows == [(shape, point) for shape in ("tiny-biogpt", "tiny-llama") for point in ("1x1", "2x3")]
    assert record["left out"] == []
    assert all(f"| {shape} | {point} |" in written for shape, point in rows)


def test_other_token_ids_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A captured step that is wrong is seen, although the other one is right."""
    whole = ModelPair.__init__

    def broken(pair: ModelPair, *options: object) -> None:
        whole(pair, *options)  # type: ignore[arg-type]
        step = pair.captured.step
        pair.captured.step = lambda *inputs: -step(*inputs)  # type: ignore[method-assign]

    monkeypatch.setattr(ModelPair, "__init__", broken)
    record = program.exact("tiny-biogpt", torch.device("cpu"), [Point(1, 1)], 6)
    assert record["equal"] == {"1x1": [False, True]}


def test_time_that_is_up_leaves_points_out(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They are named."""
    monkeypatch.setattr(program, "exact", lambda *_: {"shape": "", "equal": {}})
    monkeypatch.setattr(program, "time", SimpleNamespace(monotonic=iter((0.0, 1000.0)).__next__))

    assert program.main(["--device", "cpu", "--shapes", "tiny-biogpt", "--points", "1x1", *SMALL]) == 0

    assert json.loads(capsys.readouterr().out.splitlines()[-1])["left out"] == ["tiny-biogpt 1x1"]


def test_missing_gpu_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, with the way to do without."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        program.main([])
    assert "finds no GPU here; DEVICE=cpu" in capsys.readouterr().err


def test_an_encoder_is_compared(tiny_archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ONNX Runtime can use the device; elsewhere the record says what is missing."""
    found = encoder(tiny_archive / VISION, "cpu")
    assert (found["device"], found["largest difference"]) == ("cpu", 0)
    assert {"stays ms", "through the host ms", "MB"} < found.keys()
    assert "has no CUDA here" in encoder(tiny_archive / VISION, "cuda")["left out"]
    monkeypatch.setitem(sys.modules, "prelim.encoding.onnx_session", None)
    assert "install onnxruntime-gpu" in encoder(tiny_archive / VISION, "cpu")["left out"]


def test_shapes_are_those_that_are_published() -> None:
    """What transformers takes where nothing is said: BioGPT, and Llama 2 of 7 billion parameters."""
    sizes = {}
    for name in ("biogpt", "llama2-7b"):
        with torch.device("meta"):
            network = program.transformers.AutoModelForCausalLM.from_config(
                program.transformers.AutoConfig.for_model(**SHAPES[name])
            )
        sizes[name] = sum(parameter.numel() for parameter in network.parameters())
    assert sizes == {"biogpt": 346_763_264, "llama2-7b": 6_738_415_616}


@pytest.mark.exhaustive
def test_script_needs_nothing_else_of_ours(tmp_path: Path) -> None:
    """In a process that finds none of our dependencies but those of transformers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    packages = {re.match(r"[\w-]+", line)[0] for line in lines}  # type: ignore[index]
    modules = {NAMES.get(package, package.replace("-", "_")) for package in packages} - WITH_TRANSFORMERS
    assert {"numba", "onnxruntime", "pydicom", "llguidance", "PIL", "psutil"} <= modules
    blocked = "\n".join(f"sys.modules[{name!r}] = None" for name in sorted(modules - {"packaging", "requests"}))
    (tmp_path / "sitecustomize.py").write_text(f"import sys\n{blocked}\n", encoding="utf-8")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}:$PYTHONPATH" exec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)

    done = subprocess.run(
        [ROOT / "benchmarks" / "gpu_check.sh", "--shapes", "tiny-llama", "--points", "2x3", *SMALL],
        env={**os.environ, "DEVICE": "cpu", "PYTHON": str(python), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(done.stdout.splitlines()[-1])["exact"][0]["equal"] == {"2x3": [True, True]}
