"""The input gate is made of training images, with the rate of false refusals that was asked for, and measured."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from prelim.archive.archive import WEIGHTS, load_tokenizer
from prelim.decoders.weights_file import read_weights
from prelim.encoding.gate import read_gate
from prelim.networks.model_folder import read_model_folder
from training import confidence, gate
from training.datasets.study import DatasetError
from training.evaluation import foreign_images, input_gate
from training.run.model_folder import write_folder
from training.settings import Settings
from training.train import train


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """One command."""
    monkeypatch.setattr(sys, "argv", ["gate", *map(str, words)])
    gate.main()


def test_the_command_makes_and_measures_a_gate(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the model's own data set; figures go into gate.json and the card, and are the same when measured again."""
    train(settings)
    few = {kind: (draw, 2) for kind, (draw, _) in foreign_images.FOREIGN.items()}
    monkeypatch.setattr(foreign_images, "FOREIGN", few)
    model, card = Path(settings.run.out), Path(settings.run.out) / "MODEL_CARD.md"
    before = card.read_text(encoding="utf-8")

    run(monkeypatch, model, "--rate", 0.3, "--out", tmp_path)
    first = json.loads((tmp_path / "gate.json").read_text(encoding="utf-8"))
    assert (first["train"], first["val"], first["rate"]) == (8, 4, 0.3)
    assert first["kinds"]["no radiology"].keys() == {*few, "all of these"}
    assert first["kinds"]["validation images, altered"]["mirrored"]["images"] == 4
    assert first["bytes"] <= input_gate.MAX_BYTES
    assert read_model_folder(model).gate is not None, "it fits the encoder"
    after = card.read_text(encoding="utf-8")
    assert after.startswith(before.rstrip())
    assert "limit is set for 30.0% false refusals on 4 validation images" in after
    assert "| mirrored | 4 |" in after

    run(monkeypatch, model, "--rate", 0.3, "--out", tmp_path, "--measure")
    assert json.loads((tmp_path / "gate.json").read_text(encoding="utf-8")) == first
    run(monkeypatch, model, "--rate", 0.3, "--out", tmp_path)
    assert card.read_text(encoding="utf-8") == after, "the section is replaced"

    stored = (model / "gate.safetensors").read_bytes()
    with pytest.raises(SystemExit, match=r"4 validation images are too few for a false-refusal rate of 1.00%; 99 are"):
        run(monkeypatch, model, "--out", tmp_path)
    assert (model / "gate.safetensors").read_bytes() == stored
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, model, "--rate", 0.7)
    assert "allowed: above 0 and below 0.5" in capsys.readouterr().err
    assert read_gate(model / "gate.safetensors").limit[0] > 0

    description = yaml.safe_load((model / "model.yaml").read_text(encoding="utf-8"))
    write_folder(model, description, read_weights(model / WEIGHTS), load_tokenizer(model), "float32")
    assert read_model_folder(model).gate is None, "training again removes the gate of the weights before"


@pytest.mark.parametrize("module", [gate, confidence])
def test_a_path_without_a_model_is_named_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType
) -> None:
    """Before its data set, which is not known then."""
    for path in (tmp_path, tmp_path / "absent"):
        monkeypatch.setattr(sys, "argv", ["command", str(path)])
        with pytest.raises(SystemExit, match=rf"{path.name} has no model.yaml; give a model folder"):
            module.main()


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_limit_refuses_at_most_the_rate_of_new_images(rate: float) -> None:
    """On average over many draws of validation images, whatever their distribution."""
    random = np.random.default_rng(0)
    refused = [
        (random.exponential(size=2000) > input_gate.find_limit(random.exponential(size=199), rate)).mean()
        for _ in range(300)
    ]
    assert np.mean(refused) == pytest.approx(rate, rel=0.15)
    with pytest.raises(DatasetError, match="too few"):
        input_gate.find_limit(np.arange(98.0), 0.01)


def test_estimate_of_false_refusals_keeps_patients_together() -> None:
    """Where each patient's images are all alike, a limit that was set on some patients meets only others."""
    random = np.random.default_rng(0)
    of_patient = random.normal(size=100)
    units = [f"p{i // 10}" for i in range(1000)]
    estimate = input_gate.estimate_false_refusals(np.repeat(of_patient, 10), units, 0.05)
    assert estimate is not None
    assert 0 < estimate["mean"] < 0.15
    assert input_gate.estimate_false_refusals(of_patient, units[::10], 0.01) is None
    assert estimate["low"] <= estimate["mean"] <= estimate["high"]


def test_area_counts_pairs() -> None:
    """Of a picture from inside and one from outside, how often the second is farther away; ties count half."""
    inside, outside = np.array([1.0, 2.0, 2.0, 3.0]), np.array([2.0, 5.0])
    pairs = [(b > a) + 0.5 * (b == a) for a in inside for b in outside]
    assert input_gate.area(inside, outside) == np.mean(pairs)
    told = input_gate.describe_kind(np.linspace(0.1, 1, 1000), np.array([0.5, 2.0]))
    assert (told["images"], told["refused"], told["roc"][0]) == (2, 0.5, 0.5)


def test_a_kind_that_was_left_out_is_refused() -> None:
    """Neither the statistics nor the limit know it."""
    random = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, list[str]]:
        kinds = ["a", "b"] * count
        return random.normal(size=(2 * count, 4)) + np.array([[0.0], [9.0]] * count), kinds

    told = input_gate.leave_out(draw(300), draw(100), 0.02, smallest=10)
    assert told.keys() == {"a", "b"}
    assert min(kind["refused"] for kind in told.values()) > 0.95
    assert input_gate.leave_out(draw(300), draw(100), 0.02, smallest=101) == {}


def test_drawn_pictures_are_always_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each follows from its kind and number, so that a card can be measured again; all are different."""
    monkeypatch.setattr(
        foreign_images, "FOREIGN", {kind: (draw, 4) for kind, (draw, _) in foreign_images.FOREIGN.items()}
    )
    write: Callable[[Path], dict[str, list[Path]]] = foreign_images.write_foreign_images
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (
        [path.read_bytes() for paths in write(tmp_path / name).values() for path in paths] for name in ("a", "b")
    )
    assert first == second
    assert len(set(first)) == len(first)


def test_there_are_three_hundred() -> None:
    """At most 100 of one kind."""
    counts = [count for _, count in foreign_images.FOREIGN.values()]
    assert (sum(counts), max(counts) <= 100) == (300, True)
