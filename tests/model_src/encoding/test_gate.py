"""The gate lets images of the training's kind pass, and no others."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from prelim.archive.archive import GATE, WEIGHTS, read_archive
from prelim.archive.manifest import write_manifest
from prelim.decoders.weights_file import read_weights
from prelim.encoding.gate import Gate, hash_encoder, pool, read_gate
from prelim.encoding.onnx_session import Array
from prelim.errors import ArchiveError, UnlikeTraining
from prelim.networks.model_folder import read_model_folder
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.archives import write_files
from tests.tiny_model import png, seen
from training.evaluation.input_gate import fit, set_limit

LIKE, UNLIKE = png(3), png(7, side=33)


def gate_of(folder: Path) -> Gate:
    """The gate of a tiny model for smooth pictures of 80 pixels, whose limit lets `LIKE` pass and not `UNLIKE`."""
    model = read_model_folder(folder)
    features = np.concatenate([pool(seen(model, png(seed)).numpy()) for seed in range(12)])
    gate = fit(features, hash_encoder(model.config, read_weights(folder / WEIGHTS)))
    near, far = (float(gate.distance(pool(seen(model, image).numpy()))[0]) for image in (LIKE, UNLIKE))
    assert near < far
    return dataclasses.replace(gate, limit=np.array([(near + far) / 2], dtype=np.float32))


@pytest.fixture(scope="module")
def gate(tiny_model: Path) -> Gate:
    """The gate of `tiny_model`."""
    return gate_of(tiny_model)


def generator(archive: Path, folder: Path, gate: Gate | None, action: str | None = None) -> ReportGenerator:
    """A generator of a copy of an archive with a gate, and with a line in model.yaml."""
    shutil.copytree(archive, folder)
    config = read_archive(archive).config
    input_ = dataclasses.replace(config.input, unlike_training=action)
    dataclasses.replace(config, input=input_).write(folder / "model.yaml")
    if gate is not None:
        gate.write(folder / GATE)
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    return ReportGenerator.load(folder, slots=2)


def test_an_unlike_image_is_refused_alone(tiny_archive: Path, tmp_path: Path, gate: Gate) -> None:
    """As a file, from the cache and as features; its neighbors' reports stay as they are without it."""
    plain = ReportGenerator.load(tiny_archive, slots=2)
    gated = generator(tiny_archive, tmp_path / "gated", gate)
    gated.warm_up()
    assert not gated.active
    features = [seen_by(gated, image) for image in (LIKE, UNLIKE)]
    requests = [ReportRequest(image=LIKE), ReportRequest(image=UNLIKE), ReportRequest(image=UNLIKE)]
    requests += [ReportRequest(image_features=values) for values in features]

    answers = gated.generate(requests)

    assert [isinstance(answer, Report) for answer in answers] == [True, False, False, True, False]
    (expected,) = plain.generate([ReportRequest(image=LIKE)])
    assert isinstance(expected, Report)
    for answer in (answers[0], answers[3]):
        assert isinstance(answer, Report)
        assert (answer.token_ids, answer.avg_logprob) == (expected.token_ids, expected.avg_logprob)
    refused = answers[1]
    assert isinstance(refused, UnlikeTraining)
    assert refused.status == 422
    assert str(refused).startswith("unlike_training: the image is unlike those that tiny was trained on; ")
    assert "input.unlike_training to warn" in str(refused)
    assert str(answers[2]) == str(answers[4]) == str(refused)


def seen_by(generator: ReportGenerator, image: bytes) -> Array:
    """image_features of a file, by the archive's own encoder."""
    prepared = generator._images.prepare(image, None)
    generator._images._encode([prepared])
    assert prepared.image_features is not None
    return prepared.image_features


@pytest.mark.parametrize(("action", "warnings"), [("warn", 1), ("ignore", 0)])
def test_an_unlike_image_can_be_read(
    tiny_archive: Path, tmp_path: Path, gate: Gate, action: str, warnings: int
) -> None:
    """With a warning each time, or without one; the report is that of an archive without a gate."""
    gated = generator(tiny_archive, tmp_path / "gated", gate, action)
    (expected,) = ReportGenerator.load(tiny_archive).generate([ReportRequest(image=UNLIKE)])
    assert isinstance(expected, Report)
    for _ in range(2):
        like, unlike = gated.generate([ReportRequest(image=LIKE), ReportRequest(image=UNLIKE)])

        assert isinstance(like, Report)
        assert isinstance(unlike, Report)
        assert not like.warnings
        assert len(unlike.warnings) == warnings
        assert all(warning.startswith("unlike_training: ") for warning in unlike.warnings)
        assert unlike.token_ids == expected.token_ids


@pytest.mark.parametrize("action", ["refuse", "warn"])
def test_a_model_without_a_gate_cannot_ask_for_one(tiny_archive: Path, tmp_path: Path, action: str) -> None:
    """The line in model.yaml would do nothing: the start fails, and so does the packaging."""
    with pytest.raises(ArchiveError, match=rf"input\.unlike_training: {action}, but there is no gate\.safetensors"):
        generator(tiny_archive, tmp_path / "gated", None, action)


def test_packaging_takes_the_gate_of_the_encoder_only(tiny_model: Path, tmp_path: Path) -> None:
    """The archive has the folder's gate; one that is left over from other weights or preprocessing is an error."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_model, folder)
    gate = gate_of(folder)
    gate.write(folder / GATE)
    (tmp_path / "files").mkdir()
    write_files(read_model_folder(folder), tmp_path / "files")
    assert (tmp_path / "files" / GATE).read_bytes() == (folder / GATE).read_bytes()

    text = (folder / "model.yaml").read_text(encoding="utf-8")
    (folder / "model.yaml").write_text(text.replace("- 0.25", "- 0.5"), encoding="utf-8")
    with pytest.raises(ArchiveError, match="of another vision encoder or other preprocessing"):
        read_model_folder(folder)
    (folder / "model.yaml").write_text(text.replace("unlike_training: null", "unlike_training: warn"), encoding="utf-8")
    (folder / GATE).unlink()
    with pytest.raises(ArchiveError, match=r"there is no gate\.safetensors"):
        write_files(read_model_folder(folder), tmp_path / "files")


def test_a_damaged_gate_is_named(tiny_archive: Path, tmp_path: Path, gate: Gate) -> None:
    """Other arrays, other shapes, other features."""
    path = tmp_path / GATE
    dataclasses.replace(gate, mean=gate.mean[1:]).write(path)
    with pytest.raises(ArchiveError, match=r"gate\.safetensors has arrays of shapes"):
        read_gate(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ArchiveError, match=r"gate\.safetensors cannot be read"):
        read_gate(path)
    narrow = dataclasses.replace(gate, mean=gate.mean[1:], directions=gate.directions[:, 1:].copy())
    with pytest.raises(ArchiveError, match="is of features of width 575, the encoder gives 576"):
        generator(tiny_archive, tmp_path / "gated", narrow)


def test_distance_is_mahalanobis_distance() -> None:
    """With as many directions as vary, it is the distance by the inverse covariance; the limit is its unit."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(6, 6)) * np.array([9, 6, 3, 2, 1, 0.5])[:, None]
    features = (random.normal(size=(4000, 6)) @ mixing + 5).astype(np.float32)
    gate = fit(features, bytes(32))
    others = random.normal(size=(50, 6)).astype(np.float32) * 20
    centered = others - features.mean(axis=0)
    expected = np.sqrt(np.einsum("ij,jk,ik->i", centered, np.linalg.inv(np.cov(features.T)), centered))

    np.testing.assert_allclose(gate.distance(others), expected, rtol=2e-2)
    half = set_limit(gate, features[:999], 0.5)
    assert (half.distance(features[:999]) > 1).mean() == pytest.approx(0.5, abs=2e-3)
    longer = np.stack([features, 3 * features], axis=1)
    np.testing.assert_allclose(pool(longer), pool(features), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(pool(features), axis=1), 1, rtol=1e-5)
    assert not pool(np.zeros((2, 3, 4), dtype=np.float32)).any(), "an encoder that gives nothing"
