"""Images are learned from as they are served; augmentation keeps sides; features stand for images."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prelim.archive.archive import read_archive
from prelim.images.preprocess import preprocess
from prelim.images.radiograph import read_radiograph
from prelim.networks.model_folder import read_model_folder
from tests.archives import write_files
from tests.training.small_systems import MODELS
from training.data.augment import augment
from training.data.features import INDEX, name_image, read_index
from training.data.images import Images
from training.datasets.checks.image_facts import examine_image
from training.datasets.study import DatasetError
from training.evaluate import main as evaluate
from training.extract_features import extract
from training.run.preparation import prepare
from training.settings import Augmentation, Settings, SettingsError, StartSettings
from training.train import train

Small = Callable[..., Settings]
ALL = Augmentation(
    rotation=10.0,
    zoom=0.15,
    aspect=0.12,
    shift=0.06,
    gamma=0.35,
    contrast=0.25,
    brightness=0.1,
    noise=0.04,
    blur=0.25,
)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("system", MODELS)
def test_images_are_those_of_the_server(small: Small, data: Path, system: str, cache: bool) -> None:
    """Without augmentation pixel_values equal those of the server bit for bit, read now or kept."""
    config = prepare(small(system), 1, main=False).model.config
    paths = sorted((data / "images").iterdir())[:3]
    found = Images(paths, config, cache=cache, hidden=True).take([2, 0], torch.Generator())
    for path, pixels in zip((paths[2], paths[0]), found, strict=True):
        expected = preprocess(read_radiograph(path.read_bytes(), config.input), config.preprocess)
        np.testing.assert_array_equal(pixels.numpy(), expected)


def test_augmentation_never_flips() -> None:
    """An image that is bright on its left side stays so, whatever is drawn; where flips are asked for, half change."""
    images = torch.zeros(64, 36, 36)
    images[:, :, :18] = 1
    for flip, expected in ((0.0, 0), (1.0, 64)):
        changed = augment(images, 32, replace(ALL, flip=flip), torch.Generator().manual_seed(0))
        left, right = changed[:, :, :16].mean(dim=(1, 2)), changed[:, :, 16:].mean(dim=(1, 2))
        assert int((left < right).sum()) == expected


def test_augmentation_without_strength_is_a_resize() -> None:
    """With every strength at zero, an image of the network's size comes out as it went in."""
    images = torch.randint(1, 256, (3, 32, 32)) / 255
    torch.testing.assert_close(augment(images, 32, Augmentation(), torch.Generator()), images, atol=1e-4, rtol=0)


def test_a_file_that_cannot_be_read_is_named(small: Small, data: Path) -> None:
    """A damaged image stops the run before it begins, with the name of the file."""
    (data / "images" / "3.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"3\.jpg cannot be learned from"):
        prepare(small(), 1, main=False)


@pytest.mark.parametrize("system", ["biomedclip_qformer_biogpt", "mobilenet_graph"])
def test_features_stand_for_images(small: Small, data: Path, tmp_path: Path, system: str) -> None:
    """A run on extracted features has the losses of a run on images with the encoder frozen.

    Features of ONNX Runtime differ from PyTorch's by less than 1e-4 of the largest (export.export_onnx).
    """
    first = small(system, "first", optimization={"epochs": 1})
    train(first)
    folder = Path(first.run.out)
    unpacked, out = tmp_path / "archive", tmp_path / "features"
    unpacked.mkdir()
    write_files(read_model_folder(folder), unpacked)
    archive = read_archive(unpacked)
    images = sorted((data / "images").iterdir())
    options = {"batch": 2, "shard": 3, "options": {}}
    source = small().dataset
    assert extract(archive, images[:4], source, out, **options) == []  # stopped half-way
    files = {file.name: file.stat().st_mtime_ns for file in out.glob("*.safetensors")}
    assert extract(archive, images, source, out, **options) == []
    assert len(read_index(out)["images"]) == 12
    assert all((out / name).stat().st_mtime_ns == when for name, when in files.items())
    curves = []
    for name, changed in (("images", {}), ("features", {"dataset": {"features": str(out)}})):
        settings = replace(small(system, name, **changed), model={}, start=StartSettings(weights=str(folder)))
        prepared = prepare(replace(settings, freeze=("vision",)), 1, main=False)
        with torch.no_grad():
            losses = [prepared.objective.eval()(prepared.train[n])[0] for n in range(4)]
        curves.append(torch.stack(losses))
    torch.testing.assert_close(*curves, rtol=1e-4, atol=1e-3)
    assert train(settings)
    before, after = (read_model_folder(Path(s.run.out)).network.vision.state_dict() for s in (first, settings))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_features_of_another_encoder_are_refused(small: Small, data: Path, tmp_path: Path) -> None:
    """Features are of one encoder and one preprocessing; another run says what differs."""
    first = small()
    train(first)
    out = tmp_path / "features"
    out.mkdir()
    (out / INDEX).write_text('{"encoder": {"architecture": "xreport"}, "images": {}}', encoding="utf-8")
    settings = replace(
        small(folder="second", dataset={"features": str(out)}), model={}, start=StartSettings(weights=first.run.out)
    )
    with pytest.raises(DatasetError, match="architecture is xreport; this model has mobilenet_graph"):
        prepare(settings, 1, main=False)


def test_a_data_set_of_features_is_trained_on_and_scored(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`feature_json` trains what follows the encoder of a given model; other features and no model are refused."""
    first = small("biomedclip_qformer_biogpt", "first", optimization={"epochs": 1})
    train(first)
    folder = tmp_path / "json"
    folder.mkdir()

    def write(width: int) -> None:
        noise = np.random.default_rng(0).standard_normal((30, width)).tolist()
        for i, row in enumerate(noise):
            contents = {"embedding": row, "report": f"frontal chest x-ray, number {i % 3}"}
            (folder / f"{i}.json").write_text(json.dumps(contents), encoding="utf-8")

    write(24)
    dataset = {"format": "feature_json", "path": str(folder), "val_fraction": 0.3}
    settings = replace(small("biomedclip_qformer_biogpt", "second", dataset=dataset), model={})
    with pytest.raises(SettingsError, match=r"has features instead of images, and start.weights is not set"):
        prepare(settings, 1, main=False)
    settings = replace(settings, start=StartSettings(weights=first.run.out))
    assert train(settings)
    before, after = (read_model_folder(Path(s.run.out)).network for s in (first, settings))
    assert torch.equal(next(before.vision.parameters()), next(after.vision.parameters()))
    assert not torch.equal(next(before.decoder.parameters()), next(after.decoder.parameters()))
    words = [settings.run.out, "--split", "val", "--draws", "20", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["evaluate", *words])
    evaluate()
    assert "teacher forcing" in capsys.readouterr().out
    write(25)
    with pytest.raises(SettingsError, match=r"the features have shape \(25,\)"):
        prepare(settings, 1, main=False)


def test_images_behind_a_link_have_features(data: Path, tmp_path: Path) -> None:
    """A name in the index follows no link, so that images may be elsewhere; a loop of links is a missing file."""
    link = tmp_path / "data" / "linked.jpg"
    elsewhere = tmp_path / "elsewhere.jpg"
    elsewhere.write_bytes((data / "images" / "0.jpg").read_bytes())
    link.symlink_to(elsewhere)
    assert name_image(link, data) == "linked.jpg"
    loop = data / "images" / "loop.jpg"
    loop.symlink_to(loop)
    assert not loop.is_file()
    assert examine_image(loop).state == "corrupt"
