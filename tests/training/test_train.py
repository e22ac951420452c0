"""Training repeats itself bit for bit, with and without a stop in between, and writes what export takes."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from prelim.networks.card_section import GAP
from prelim.networks.model_folder import read_model_folder
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.archives import write_files
from tests.tiny_model import png
from tests.training.small_systems import IU_XRAY, MODELS, small_run
from training.datasets.trained_on import name_weights
from training.network.optimization import learning_rate
from training.settings import OptimizationSettings, Settings, SettingsError
from training.train import main, read_command_line, train

Small = Callable[..., Settings]
AUGMENTED = {"rotation": 5.0, "zoom": 0.1, "noise": 0.02, "side": 72}


def weights(settings: Settings) -> dict[str, Tensor]:
    """The weights that a run wrote."""
    return load_file(Path(settings.run.out) / "model.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of weights are the same bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def changed(settings: Settings, **run: object) -> Settings:
    """The same with other settings of `run`."""
    return replace(settings, run=replace(settings.run, **run))  # type: ignore[arg-type]


def losses(settings: Settings) -> list[float]:
    """Training losses of a run that ended."""
    rows = json.loads((Path(settings.run.folder) / "training.json").read_text(encoding="utf-8"))["train"]
    return [row[1] for row in rows]


def test_one_seed_gives_the_same_weights(small: Small) -> None:
    """Two runs with one seed give bit-equal weights; another seed gives others."""
    results = []
    for i, seed in enumerate((1, 1, 2)):
        run = small(folder=str(i), optimization={"seed": seed}, augment=AUGMENTED)
        assert train(run)
        results.append(weights(run))
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])


def test_processes_that_read_images_change_nothing(small: Small) -> None:
    """With images read by two worker processes, the weights are bit for bit the same."""
    runs = [changed(small(folder=str(workers), augment=AUGMENTED), workers=workers) for workers in (0, 2)]
    assert all(train(run) for run in runs)
    assert equal(*map(weights, runs))


@pytest.mark.parametrize("system", MODELS)
def test_a_stopped_run_ends_as_an_uninterrupted_one(system: str, small: Small) -> None:
    """A run of any system, stopped in the middle of an epoch and twice resumed, gives the weights of one left alone."""
    extras = {"augment": AUGMENTED, "auxiliary": {"labels": ["finding"]}, "optimization": {"ema_decay": 0.9}}
    whole = small(system, "whole", **extras)
    assert train(whole)
    stopped = small(system, "stopped", **extras)
    assert not train(changed(stopped, stop_after=1))
    assert not Path(stopped.run.out).exists()
    assert not train(changed(stopped, stop_after=2, resume=True))
    assert train(changed(stopped, resume=True))
    assert equal(weights(whole), weights(stopped))
    assert losses(whole) == losses(stopped)


def test_a_run_goes_on_only_as_it_began(small: Small) -> None:
    """Resuming with another learning rate is an error that names it; resuming nothing is one, too."""
    with pytest.raises(SettingsError, match=r"last\.pt does not exist"):
        train(changed(small(), resume=True))
    assert not train(changed(small(), stop_after=1))
    with pytest.raises(SettingsError, match=r"optimization\.learning_rate is 0.5"):
        train(changed(small(optimization={"learning_rate": 0.5}), resume=True))


def test_a_run_is_resumed_from_its_folder_and_made_longer(small: Small) -> None:
    """Without a configuration, by the settings in the folder; more epochs add steps to those that are done."""
    settings = small(optimization={"epochs": 1})
    assert train(settings)
    done = losses(settings)
    words = ["run.resume=true", f"run.folder={settings.run.folder}"]
    assert replace(settings, run=replace(settings.run, resume=True)) == read_command_line(words)
    assert train(read_command_line([*words, "optimization.epochs=3"]))
    assert losses(settings)[: len(done)] == done
    assert len(losses(settings)) == 3 * len(done)
    for wrong in ([f"run.folder={settings.run.folder}"], ["run.resume=true"], ["run.resume=true", "run.folder=none"]):
        with pytest.raises(SettingsError, match=r"CONFIG\.yaml"):
            read_command_line(wrong)


def test_the_card_is_that_of_the_run_in_the_folder(small: Small) -> None:
    """After a longer run, and after another one into the same folder; what the owner wrote is kept in the run folder.

    Also `training.json` names the weights that are there.
    """
    settings = small(optimization={"epochs": 1})
    assert train(settings)
    card, run = Path(settings.run.out) / "MODEL_CARD.md", Path(settings.run.folder)
    first = card.read_text(encoding="utf-8")
    assert "\n2 steps in " in first
    assert "8 examples to train on, 4 to validate with; no patient is in both, as far as ids tell." in first
    card.write_text(first.replace(GAP, "Filled:"), encoding="utf-8")
    assert train(read_command_line(["run.resume=true", f"run.folder={run}", "optimization.epochs=3"]))
    assert "\n6 steps in " in card.read_text(encoding="utf-8")
    assert "epochs: 3\n" in card.read_text(encoding="utf-8")
    assert "Filled:" in (run / "MODEL_CARD.before-1.md").read_text(encoding="utf-8")
    other = small(folder="other", optimization={"epochs": 2})
    other = replace(other, run=replace(other.run, out=settings.run.out))
    assert train(other)
    assert "\n4 steps in " in card.read_text(encoding="utf-8")
    told = json.loads((Path(other.run.folder) / "training.json").read_text(encoding="utf-8"))
    assert told["weights"] == name_weights(card.parent)["weights"]


@pytest.mark.parametrize(("known", "said"), [(0, "the patient of all of them is unknown"), (9, "the patient of 7 of")])
def test_the_card_says_that_patients_are_unknown(tmp_path: Path, known: int, said: str) -> None:
    """Of studies whose patient nobody knows, "no patient is in both" is not said."""
    rows = [{"file": f"{i}.png", "report": "Clear.", "split": ("train", "val")[i % 2]} for i in range(16)]
    rows = [row | ({"patient": f"p{i}"} if i < known else {}) for i, row in enumerate(rows)]
    (tmp_path / "images").mkdir()
    for i in range(16):
        (tmp_path / "images" / f"{i}.png").write_bytes(png(i))
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    dataset = {"path": str(tmp_path), "sections": ["report"]}
    settings = small_run("xreport", tmp_path, dataset=dataset, optimization={"epochs": 1})
    assert train(settings)
    card = (Path(settings.run.out) / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"8 to validate with; {said}" in card
    assert "no patient is in both" not in card


def test_the_license_of_weights_is_the_owners_to_say(small: Small) -> None:
    """That of the published architecture says nothing about weights trained on other data."""
    settings = small(optimization={"epochs": 1})
    train(settings)
    assert read_model_folder(Path(settings.run.out)).config.licence.startswith("GAP")
    assert "License of the weights: GAP" in (Path(settings.run.out) / "MODEL_CARD.md").read_text(encoding="utf-8")
    given = replace(small(folder="given"), model={**settings.model, "licence": "CC BY-NC-ND 4.0"})
    train(given)
    config = read_model_folder(Path(given.run.out)).config
    assert (config.licence, config.use) == ("CC BY-NC-ND 4.0", "non-commercial")


def test_terms_of_the_weights_that_training_began_with_go_on(small: Small) -> None:
    """Their limit, their documents, and a mark of the change; a wider use is refused."""
    first = small(optimization={"epochs": 1})
    license_name = "Gemma Terms of Use; research only"
    first = replace(first, model={**first.model, "licence": license_name})
    train(first)
    (Path(first.run.out) / "terms" / "AGREEMENT").write_text("terms", encoding="utf-8")
    then = replace(small(folder="then"), model={}, start=replace(first.start, weights=first.run.out))
    train(then)
    out = Path(then.run.out)
    config = read_model_folder(out).config
    assert config.licence.startswith("GAP")
    assert license_name in config.licence
    assert config.use == "research"
    assert {path.name for path in (out / "terms").iterdir()} == {"AGREEMENT", "MODIFIED.txt", "NOTICE.txt"}
    assert "GAP, for the owner to fill:** the license of the weights" in (out / "MODEL_CARD.md").read_text("utf-8")
    with pytest.raises(SettingsError, match=r"model\.use is 'within-terms', but the license"):
        train(replace(then, model={"use": "within-terms"}))


@pytest.mark.parametrize("system", MODELS)
def test_the_model_folder_packages_and_serves(system: str, small: Small, tmp_path: Path) -> None:
    """What training writes becomes an archive as it is, and the archive writes a report."""
    settings = small(system, optimization={"epochs": 1})
    assert train(settings)
    folder = Path(settings.run.out)
    assert {file.name for file in folder.iterdir()} == {
        *("model.yaml", "model.safetensors", "tokenizer.json", "trained_on.json", "MODEL_CARD.md")
    }
    archive = tmp_path / "archive"
    archive.mkdir()
    write_files(read_model_folder(folder), archive)
    (report,) = ReportGenerator.load(archive, slots=1).generate([ReportRequest(image=png())])
    assert report.status == "UNVERIFIED"  # type: ignore[union-attr]
    assert (Path(settings.run.folder) / "curves.png").stat().st_size
    assert list((Path(settings.run.folder) / "tensorboard").iterdir())


def test_the_best_weights_are_written(small: Small) -> None:
    """The model folder has the weights of the validation with the lowest loss, not the last ones."""
    settings = small(optimization={"learning_rate": 0.5, "schedule": "constant", "gradient_clip": 0.0})
    train(settings)
    best = torch.load(Path(settings.run.folder) / "best.pt", weights_only=True)
    last = torch.load(Path(settings.run.folder) / "last.pt", weights_only=True)
    progress = last["progress"]
    assert min(row[1] for row in progress["val"]) == progress["lowest"] < progress["val"][-1][1]
    name = "decoder.lm_head.weight"
    assert torch.equal(weights(settings)[name], best[f"network.{name}"])


def test_training_ends_early(small: Small) -> None:
    """After `patience` validations without a lower loss the run ends and writes its model."""
    settings = changed(small(optimization={"learning_rate": 0.5, "epochs": 40, "schedule": "constant"}), patience=2)
    assert train(settings)
    assert len(losses(settings)) < 80


def test_accumulation_is_a_larger_batch(small: Small) -> None:
    """Four passes of one example learn what one pass of four does; rounding apart, since sums have another order."""
    curves = []
    for size, accumulate in ((4, 1), (1, 4)):
        values = {"optimization": {"batch_size": size, "accumulate": accumulate}, "dropout": False}
        run = small("xraygpt", f"{size}", **values)
        run = replace(run, freeze=("connector",))  # whose dropout draws differently for other batches
        train(run)
        curves.append(torch.tensor(losses(run)))
    torch.testing.assert_close(*curves, atol=1e-4, rtol=1e-4)


def test_schedules() -> None:
    """Rates climb linearly to the peak; then they stay, fall evenly, or fall along half a cosine to the floor."""
    for schedule, middle in (("constant", 1.0), ("linear", 0.6), ("cosine", 0.6)):
        settings = OptimizationSettings(learning_rate=1.0, schedule=schedule, warmup=10, floor=0.2)
        rates = [learning_rate(step, 111, settings) for step in range(111)]
        assert rates[0] == pytest.approx(0.1)
        assert rates[9] == rates[10] == 1.0
        assert rates[60] == pytest.approx(middle)
        assert rates[-1] == pytest.approx(1.0 if schedule == "constant" else 0.2)
        fraction = [learning_rate(step, 100, replace(settings, warmup=0.1)) for step in range(100)]
        assert fraction[9] == 1.0
    cosine, linear = (learning_rate(35, 111, replace(settings, schedule=name)) for name in ("cosine", "linear"))
    assert cosine > linear


@pytest.mark.slow
@pytest.mark.skipif(not IU_XRAY.is_dir(), reason="needs the data set iu_xray next to the project")
@pytest.mark.parametrize("system", MODELS)
@pytest.mark.parametrize("pairs", [4, pytest.param(16, marks=pytest.mark.exhaustive)])
def test_real_pairs_are_learned_by_heart(system: str, pairs: int, tmp_path: Path) -> None:
    """Any system, its dropout off where it has a setting, brings the loss of images with their reports below 0.1."""
    epochs = {"biomedclip_qformer_biogpt": 400, "xraygpt": 300, "mobilenet_graph": 100, "densenet_disease_llama": 80}
    optimization = {"epochs": epochs.get(system, 150), "batch_size": pairs, "learning_rate": 3e-3, "weight_decay": 0.0}
    # An epoch is one step here, and would end with a checkpoint that takes as long.
    rarely = {"validate_every": optimization["epochs"]}
    limited = {"limit": pairs}
    settings = small_run(system, tmp_path, dropout=False, dataset=limited, optimization=optimization, run=rarely)
    train(settings)
    assert losses(settings)[-1] < 0.1


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_is_printed(word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command's own description, without an error."""
    monkeypatch.setattr(sys, "argv", ["train", word])
    main()
    assert "python -m training.train training/configs/demo.yaml" in capsys.readouterr().out
