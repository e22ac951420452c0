"""A model is never scored on what it was trained on, whatever the settings of its splits."""

import json
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import png
from tests.training.small_systems import small_run
from training import evaluate as command
from training.data.examples import read_examples
from training.datasets.source import load_studies
from training.datasets.study import DatasetError
from training.datasets.trained_on import TRAINED_ON, TrainedOn, read_trained_on
from training.evaluation.data import read_data
from training.settings import Settings, make_dataset_settings
from training.train import train

FRACTIONS = ((0.1, 0.1), (0.3, 0.0), (0.0, 0.3), (0.25, 0.25), (0.4, 0.1))


def write_data(folder: Path, fixed: str, count: int = 40) -> Path:
    """Studies of 20 patients: without splits, with splits for all, for some, or with patients in two of them."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(count):
        row: dict[str, Any] = {"file": f"{i}.png", "patient": f"p{i // 2}", "report": f"Finding {i} of the lung."}
        if fixed == "all" or (fixed == "some" and i % 4 < 2):
            row["split"] = ("train", "train", "val", "test")[i // 2 % 4]
        if fixed == "leaking":
            row["split"] = ("train", "test")[i % 2] if i < 10 else ("train", "val", "test")[i // 2 % 3]
        (folder / "images" / f"{i}.png").write_bytes(png(i % 7))
        rows.append(row)
    (folder / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def train_in_parts(settings: Settings, sessions: int) -> TrainedOn:
    """Train one step a session, the last session to the end; what the model folder says then."""
    for session in range(sessions):
        last = session == sessions - 1
        run = replace(settings.run, resume=session > 0, stop_after=0 if last else 1)
        assert train(replace(settings, run=run)) is last
    record = read_trained_on(Path(settings.run.out))
    assert record is not None
    return record


@pytest.mark.parametrize("fixed", ["none", "some", "all", "leaking"])
@pytest.mark.parametrize("number", range(5))
def test_no_split_setting_scores_what_was_trained_on(tmp_path: Path, fixed: str, number: int) -> None:
    """20 combinations of fractions, seeds, fixed splits and resumed runs share no study and no patient with scores.

    Each is a real run of a tiny model in one, two or three sessions; every other run is made longer afterwards. Any
    other seed or fractions that would score a trained study are refused.
    """
    path = write_data(tmp_path / "data", fixed, count=24)
    val, test = FRACTIONS[number]
    values = {"format": "pairs", "path": str(path), "val_fraction": val, "test_fraction": test, "split_seed": number}
    values["splits"] = ("disjoint", "drawn")[number % 2] if fixed == "leaking" else "fixed"
    values["images"], values["sections"] = "each", ["report"]
    short = {"epochs": 2, "batch_size": 2, "max_steps": 3}
    run = small_run("xreport", tmp_path, dataset=values, optimisation=short)
    record = train_in_parts(run, 1 + number % 3)
    if number % 2:
        longer = replace(run.optimisation, max_steps=4)
        assert train(replace(run, optimisation=longer, run=replace(run.run, resume=True)))
        assert read_trained_on(Path(run.run.out)) == record
    settings, learned = run.dataset, record.studies
    assert learned == {example.fingerprint for example in read_examples(settings).train}
    patients = {study.patient_id for study in load_studies(settings) if study.fingerprint in learned}
    for split in ("val", "test"):
        try:
            data = read_data(make_dataset_settings(record.dataset), split, trained_on=record)
        except DatasetError as error:
            assert "has no studies of split" in str(error)  # noqa: PT017 - which of two errors it is
            continue
        assert not patients & {study.patient_id for study in data.studies}
        assert not learned & {study.fingerprint for study in data.studies}
    with pytest.raises(DatasetError, match="was trained on"):
        read_data(settings, "train", trained_on=record)
    other = replace(settings, split_seed=number + 100, splits="drawn", val_fraction=0.5, test_fraction=0.0)
    drawn = [study for study in load_studies(other) if study.split == "val"]
    assert learned & {study.fingerprint for study in drawn}
    with pytest.raises(DatasetError, match="was trained on"):
        read_data(other, "val", trained_on=record)


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Settings]:
    """Trains a small system 1 for one epoch on drawn splits."""

    def run(name: str, **changed: Any) -> Settings:
        data = tmp_path / "data"
        path = data if data.exists() else write_data(data, "none")
        dataset = {"path": str(path), "sections": ["report"], "images": "each", "val_fraction": 0.2, "split_seed": 5}
        return small_run(
            "mobilenet_graph",
            tmp_path / name,
            dataset=dataset | changed.pop("dataset", {}) | {"test_fraction": 0.2},
            optimisation={"epochs": 1} | changed.pop("optimisation", {}),
            **changed,
        )

    return run


def evaluate(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    """The command line, with few bootstrap draws."""
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, words), "--draws", "20", "--min-count", "1"])
    command.main()


def test_a_resumed_run_keeps_what_it_learned_from(
    trained: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run that is stopped and resumed writes the studies of a whole one, and refuses data that changed in between.

    The model folder alone names the data set, its splits and images for evaluation; another seed is refused.
    """
    settings = trained("run")
    assert not train(replace(settings, run=replace(settings.run, stop_after=1)))
    assert train(replace(settings, run=replace(settings.run, resume=True)))
    folder = Path(settings.run.out)
    record = read_trained_on(folder)
    assert record is not None
    assert record.studies == {example.fingerprint for example in read_examples(settings.dataset).train}
    out = tmp_path / "out"
    evaluate(monkeypatch, folder, "--split", "val", "--out", out)
    result = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert result["val"] == result["studies"]
    for words, message in (
        (("--seed", "6"), "split_seed is 6, the model was trained with 5"),
        (("--split", "train"), "was trained on"),
    ):
        with pytest.raises(SystemExit, match=message):
            evaluate(monkeypatch, folder, *words, "--out", out)
    rows = json.loads((Path(settings.dataset.path) / "pairs.json").read_text(encoding="utf-8"))
    rows[0]["report"] = "Another text."
    random.Random(0).shuffle(rows)
    (Path(settings.dataset.path) / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(Exception, match=r"has other studies, texts or splits"):
        train(replace(settings, run=replace(settings.run, resume=True)))
    capsys.readouterr()


def test_a_model_remembers_what_it_began_with(trained: Callable[..., Settings]) -> None:
    """A second training with other splits adds to the studies of the first: neither can be scored."""
    first = trained("first")
    train(first)
    second = trained("second", dataset={"split_seed": 9}, model={}, start={"weights": first.run.out})
    train(replace(second, model={}))
    one, both = read_trained_on(Path(first.run.out)), read_trained_on(Path(second.run.out))
    assert one is not None
    assert both is not None
    assert one.studies < both.studies
    with pytest.raises(DatasetError, match="was trained on"):
        read_data(second.dataset, "val", trained_on=both)


def test_a_damaged_record_names_the_file(tmp_path: Path) -> None:
    """An imported model has none; half of one is not taken for none."""
    assert read_trained_on(tmp_path) is None
    (tmp_path / TRAINED_ON).write_text("{", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"trained_on.json cannot be read"):
        read_trained_on(tmp_path)
