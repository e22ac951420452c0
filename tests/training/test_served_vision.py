"""Gates and calibrations are fitted to the features that are served, and to no others."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from prelim.archive.archive import GATE, VISION, WEIGHTS
from prelim.archive.encoder_config import AUTO, EXACT, EncoderConfig
from prelim.decoders.weights_file import read_weights
from prelim.encoding.gate import hash_encoder
from prelim.encoding.network_session import open_vision
from prelim.errors import ArchiveError
from prelim.networks.model_folder import Model, hash_model, read_model_folder
from tests.archives import write_files
from tests.tiny_model import CONFIG, write_tiny_model
from training.evaluation.encoding import served_vision
from training.evaluation.input_gate import fit

BF16 = EncoderConfig("openvino", "bf16")
FEATURES = np.random.default_rng(0).normal(size=(9, 576)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose encoder is served in bf16."""
    return write_tiny_model(tmp_path_factory.mktemp("model"), dataclasses.replace(CONFIG, encoder=BF16))


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    """The same in memory."""
    return read_model_folder(folder)


@pytest.fixture(scope="module")
def archive(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its archive, unpacked."""
    path = tmp_path_factory.mktemp("archive")
    write_files(model, path)
    return path


def test_features_are_those_of_the_archive(model: Model, archive: Path) -> None:
    """In all bits, and each of an image alone."""
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    session = open_vision(archive / VISION, BF16, "cpu", 1, packed=True)
    wanted = torch.cat([session.run(image[None]) for image in images])

    found = served_vision(model.config, model.network.vision, archive)(images)

    assert torch.equal(found, wanted)
    for exact in (None, EXACT, EncoderConfig("openvino")):
        config = dataclasses.replace(model.config, encoder=exact)
        assert served_vision(config, model.network.vision, None) is model.network.vision


def test_what_an_archive_must_be(model: Model, archive: Path, tmp_path: Path) -> None:
    """There, in the precision of the folder, and of its weights."""
    vision, other = model.network.vision, read_model_folder(write_tiny_model(tmp_path / "other", model.config, seed=1))
    with pytest.raises(ArchiveError, match=r"served in openvino bf16, .* pass it as --archive"):
        served_vision(model.config, vision, None)
    with pytest.raises(ArchiveError, match=r"encoder in openvino bf16, model\.yaml in onnxruntime int8"):
        served_vision(dataclasses.replace(CONFIG, encoder=EncoderConfig(precision="int8")), vision, archive)
    with pytest.raises(ArchiveError, match=r"encoder\.precision is auto; gates and calibrations"):
        served_vision(dataclasses.replace(CONFIG, encoder=EncoderConfig(precision=AUTO)), vision, archive)
    with pytest.raises(ArchiveError, match="the encoder of another model"):
        served_vision(model.config, other.network.vision, archive)


def test_a_gate_of_another_precision_is_refused(folder: Path, model: Model) -> None:
    """The hash of a gate has the encoder's precision, unless that is fp32, as the hash of a calibration has."""
    weights = read_weights(folder / WEIGHTS)
    exact = dataclasses.replace(model.config, encoder=None)
    assert hash_model(folder, exact) == hash_model(folder, dataclasses.replace(exact, encoder=EXACT))
    assert hash_model(folder, exact) != hash_model(folder, model.config)
    try:
        fit(FEATURES, hash_encoder(model.config, weights)).write(folder / GATE)
        assert read_model_folder(folder).gate is not None
        fit(FEATURES, hash_encoder(exact, weights)).write(folder / GATE)
        with pytest.raises(ArchiveError, match=r"gate\.safetensors is of another vision encoder"):
            read_model_folder(folder)
    finally:
        (folder / GATE).unlink()
