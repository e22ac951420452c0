"""Training repeats itself bit for bit, with and without a stop in between."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model_src.model_folder import read_model_folder
from training.augment import augment
from training.label_head import LabelHead
from training.labels import Labels
from training.optimisation import learning_rate
from training.settings import Settings
from training.train import train


@pytest.fixture(autouse=True)
def _restore_torch():
    """Training sets threads and determinism of the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def weights(settings: Settings) -> dict[str, Tensor]:
    """The weights that a run wrote."""
    return load_file(Path(settings.out) / "model.safetensors")


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of weights are the same bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_one_seed_gives_the_same_weights(settings: Settings, tmp_path: Path) -> None:
    """Two runs with one seed give bit-equal weights; another seed gives others."""
    results = []
    for i, seed in enumerate((1, 1, 2)):
        run = replace(settings, seed=seed, run=str(tmp_path / f"run{i}"), out=str(tmp_path / f"model{i}"))
        assert train(run)
        results.append(weights(run))
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])


def test_a_stopped_run_ends_as_an_uninterrupted_one(settings: Settings, tmp_path: Path) -> None:
    """A run stopped in the middle of an epoch and resumed gives the weights of a run that was left alone."""
    assert train(settings)
    stopped = replace(settings, run=str(tmp_path / "stopped"), out=str(tmp_path / "resumed"))
    assert not train(replace(stopped, stop_after=1))
    assert not (tmp_path / "resumed").exists()
    assert not train(replace(stopped, stop_after=2, resume=True))
    assert train(replace(stopped, resume=True))
    assert equal(weights(settings), weights(stopped))


def test_the_model_folder_is_one_that_export_reads(settings: Settings) -> None:
    """The folder that training writes is read by model_src, its float16 weights as float32."""
    train(settings)
    model = read_model_folder(Path(settings.out))
    assert model.config.preprocess.size == settings.image_size
    assert next(model.network.parameters()).dtype == torch.float32
    assert weights(settings)["decoder.lm_head.weight"].dtype == torch.float16


def test_augmentation_without_strength_is_a_resize(settings: Settings) -> None:
    """With every strength at zero, a picture of the network's size comes out as it went in."""
    none = dict.fromkeys(
        ("rotation", "zoom", "aspect", "shift", "gamma", "contrast", "brightness", "noise", "blur", "erase"), 0.0
    )
    images = torch.randint(1, 256, (3, 32, 32), dtype=torch.uint8)
    changed = augment(images, 32, replace(settings, **none), torch.Generator())
    torch.testing.assert_close(changed, images / 255, atol=1e-4, rtol=0)


def test_augmentation_never_flips(settings: Settings) -> None:
    """A picture that is bright on its left side stays bright on its left side, whatever is drawn."""
    images = torch.zeros(64, 36, 36, dtype=torch.uint8)
    images[:, :, :18] = 255
    changed = augment(images, 32, replace(settings, erase=0.0), torch.Generator().manual_seed(0))
    assert (changed[:, :, :16].mean(dim=(1, 2)) > changed[:, :, 16:].mean(dim=(1, 2))).all()


def test_the_learning_rate_restarts_once(settings: Settings) -> None:
    """It climbs to its peak, falls to a hundredth, starts again from the second peak and falls to a hundredth of it."""
    settings = replace(settings, warmup_epochs=1, restart_epochs=(5,), learning_rate=1.0, restart_learning_rate=0.5)
    rates = [learning_rate(step, 100, 10, settings) for step in range(100)]
    assert rates[9] == rates[10] == max(rates) == 1.0
    assert rates[49] == pytest.approx(0.01, abs=0.01)
    assert rates[50] == 0.5
    assert rates[99] == pytest.approx(0.005, abs=0.005)


def test_a_group_is_as_likely_as_its_labels_together() -> None:
    """Two pneumonias of a half each make a group loss of zero, though neither label is sure."""
    labels = [
        Labels("radiograph", "chest", "frontal", finding) for finding in ("COVID-19", "normal", "viral pneumonia")
    ]
    head = LabelHead(4, labels)
    logits = torch.tensor([[20.0, -20.0, 20.0]])
    label_loss, group_loss = head.losses(logits, torch.tensor([0]), 0.0)
    assert group_loss.item() == pytest.approx(0, abs=1e-5)
    assert label_loss.item() == pytest.approx(0.6931, abs=1e-3)
