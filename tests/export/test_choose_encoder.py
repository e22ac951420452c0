"""The precision of the vision encoder: chosen by what a model writes, measured, and told."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from export import choose_encoder as module
from export.choose_encoder import encode, settle_encoder, wanted_encoder
from export.package import Settled, settle_precision, write_archive, write_model_files
from export.quantize_vision import quantize_vision
from export.reference import Reference, read_reference
from prelim.archive.archive import VISION, read_archive
from prelim.archive.encoder_config import AUTO, EXACT, RUNTIMES, EncoderConfig
from prelim.archive.manifest import write_manifest
from prelim.archive.model_config import ModelConfig
from prelim.encoding.onnx_session import Array
from prelim.errors import ArchiveError
from prelim.networks.model_folder import MODEL_CARD, Model, read_model_folder
from prelim.report import Report
from prelim.report_generator import ReportGenerator, ReportRequest
from tests.tiny_model import CONFIG, png, write_tiny_model


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four pictures."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(4):
        (folder / f"{seed}.png").write_bytes(png(seed))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The tiny model."""
    return read_model_folder(write_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def reference(model: Model, images: Path) -> Reference:
    """What it writes for the pictures."""
    return read_reference(model, images, "a test")


@pytest.fixture(scope="module")
def quantized(tiny_archive: Path, reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its vision encoder with products of 8 bits."""
    path = tmp_path_factory.mktemp("quantized") / VISION
    quantize_vision(tiny_archive / VISION, reference.pixel_values[::2], path, "openvino")
    return path


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_eight_bits_in_any_batch(tiny_archive: Path, quantized: Path, reference: Reference, runtime: str) -> None:
    """Every product has weights of 8 bits, the features are near those of fp32, and the same in any order."""
    kinds = {
        initializer.data_type for initializer in onnx.load(quantized).graph.initializer if len(initializer.dims) > 1
    }
    assert kinds == {onnx.TensorProto.INT8}
    pixels = reference.pixel_values
    wanted = encode(tiny_archive / VISION, EXACT, pixels)
    found = encode(quantized, EncoderConfig(runtime, "int8"), pixels)
    again = encode(quantized, EncoderConfig(runtime, "int8"), pixels[::-1])[::-1]
    assert np.array_equal(found, again)
    assert not np.array_equal(found, wanted)
    cosine = (found * wanted).sum() / np.sqrt((found**2).sum() * (wanted**2).sum())
    assert cosine > 0.9


def test_quantizing_again_gives_the_same_bytes(tiny_archive: Path, quantized: Path, reference: Reference) -> None:
    """Archives are reproducible."""
    again = quantized.parent / "again.onnx"
    quantize_vision(tiny_archive / VISION, reference.pixel_values[::2], again, "openvino")
    weights = [file.read_bytes() for file in (quantized.with_name(f"{name}.data") for name in (VISION, again.name))]
    assert weights[0] == weights[1]


@pytest.fixture
def exported(tiny_archive: Path, tmp_path: Path) -> Path:
    """A folder with vision.onnx."""
    for name in (VISION, f"{VISION}.data"):
        (tmp_path / name).write_bytes((tiny_archive / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize("spoiled", [0, 1, 2])
def test_the_first_that_changes_little_is_taken(
    model: Model, reference: Reference, exported: Path, monkeypatch: pytest.MonkeyPatch, spoiled: int
) -> None:
    """Those after it are not tried; fp32 of the same runtime if there is none; vision.onnx is that which is served."""
    order = ("int8", "bf16")
    before = (exported / VISION).read_bytes()

    def changed(path: Path, encoder: EncoderConfig, pixel_values: Array) -> Array:
        found = encode(path, EXACT, pixel_values)
        return -found if encoder.precision in order[:spoiled] else found

    monkeypatch.setattr(module, "LIMIT", 0.5)
    monkeypatch.setattr(module, "encode", changed)
    monkeypatch.setattr(module, "FASTEST_FIRST", {module.family(): {"openvino": order}})

    settled, measured = settle_encoder(model, EncoderConfig("openvino", AUTO), reference, None, exported)

    assert settled == EncoderConfig("openvino", [*order, "fp32"][spoiled])
    assert measured is not None
    assert [*measured.changed] == [*measured.features] == [*measured.together] == [*order[: spoiled + 1]]
    assert all((change > 1) == (precision in order[:spoiled]) for precision, change in measured.features.items())
    assert ((exported / VISION).read_bytes() == before) == (spoiled > 0)


@pytest.mark.parametrize("encoder", [EncoderConfig("openvino", "bf16"), EncoderConfig("onnxruntime", "int8")])
def test_an_archive_has_what_was_measured(tmp_path: Path, images: Path, encoder: EncoderConfig) -> None:
    """In model.yaml and in the card; packaging again gives the same bytes; its reports do not depend on neighbors."""
    folder = write_tiny_model(tmp_path / "mine", dataclasses.replace(CONFIG, encoder=encoder))
    (folder / MODEL_CARD).write_text("# Mine\n", encoding="utf-8")

    first, again = (
        write_archive(folder, tmp_path / store, batching="dynamic", slots=2, images=images) for store in ("a", "b")
    )

    assert first.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(first) as archive:
        config = ModelConfig.from_mapping(yaml.safe_load(archive.read("model.yaml")), "model.yaml")
        card = archive.read(MODEL_CARD).decode()
    assert config.encoder == encoder
    assert config.measured_encoder is not None
    assert config.measured_encoder.features.keys() == {encoder.precision}
    assert f"runs in {encoder}" in card
    requests = [ReportRequest(image=png(seed)) for seed in range(3)]
    together = ReportGenerator.load(first).generate(requests)
    alone = [ReportGenerator.load(first).generate([request])[0] for request in requests]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, Report)
        assert isinstance(other, Report)
        assert (one.token_ids, one.logprobs) == (other.token_ids, other.logprobs)


def test_auto_covers_the_encoder(model: Model) -> None:
    """Unless model.yaml names one, or a gate or a calibration is of features in fp32."""

    def asked(**values: object) -> EncoderConfig:
        config = dataclasses.replace(
            CONFIG, **{name: values.pop(name) for name in ("precision", "encoder") if name in values}
        )
        return wanted_encoder(dataclasses.replace(model, config=config, **values))

    assert asked() == asked(precision=AUTO, gate=object()) == asked(precision=AUTO, encoder=EXACT) == EXACT
    assert asked(precision=AUTO) == EncoderConfig(precision=AUTO)
    with pytest.raises(ArchiveError, match=r"encoder\.precision is auto, but gate\.safetensors is of one precision"):
        asked(encoder=EncoderConfig("openvino", AUTO), gate=object())


def test_eight_bits_need_images(model: Model) -> None:
    """Their scales are those of images; bf16 has none, and is not measured without them."""
    for precision in ("int8", AUTO):
        config = dataclasses.replace(CONFIG, encoder=EncoderConfig("openvino", precision))
        with pytest.raises(ArchiveError, match=rf"encoder\.precision: {precision} needs .* --images FOLDER"):
            settle_precision(dataclasses.replace(model, config=config), None)
    named = dataclasses.replace(model, config=dataclasses.replace(CONFIG, encoder=EncoderConfig("openvino", "bf16")))
    assert settle_precision(named, None) == Settled(named, EncoderConfig("openvino", "bf16"))


def test_an_archive_has_one_precision(model: Model, tmp_path: Path) -> None:
    """One that was edited is an error at its start."""
    write_model_files(Settled(model), tmp_path)
    config = ModelConfig.read(tmp_path / "model.yaml")
    dataclasses.replace(config, encoder=EncoderConfig(precision=AUTO)).write(tmp_path / "model.yaml")
    write_manifest(tmp_path)
    with pytest.raises(ArchiveError, match=r"encoder\.precision is auto; an archive has one"):
        read_archive(tmp_path)
