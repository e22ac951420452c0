"""The precision of the vision encoder: chosen by what a model writes, measured, and told."""

import dataclasses
import logging
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import helper, numpy_helper

from export import choose_encoder as module
from export.choose_encoder import connect, encode, settle_encoder, wanted_encoder
from export.package import Settled, settle_precision, write_archive
from export.quantize_network import quantize_network
from export.reference import Reference, read_reference
from prelim.archive.archive import CONNECTOR, VISION, read_archive
from prelim.archive.encoder_config import AUTO, EXACT, PARTS, RUNTIMES, EncoderConfig
from prelim.archive.manifest import write_manifest
from prelim.archive.model_config import ModelConfig
from prelim.encoding.onnx_session import Array
from prelim.errors import ArchiveError
from prelim.kernels import family
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
    quantize_network(tiny_archive / VISION, reference.pixel_values[::2], path, "openvino")
    return path


def write_network(path: Path) -> None:
    """A convolution and a product, with seeded weights, whose features have shape (batch, 16)."""
    random = np.random.default_rng(0)
    weights = {"filters": random.normal(size=(8, 3, 3, 3)), "matrix": random.normal(size=(32, 16))}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["pixel_values", "filters"], ["lines"], "conv", strides=[2, 2]),
            helper.make_node("Relu", ["lines"], ["kept"], "relu"),
            helper.make_node("GlobalAveragePool", ["kept"], ["pooled"], "pool"),
            helper.make_node("Concat", ["pooled"] * 4, ["wide"], "concat", axis=1),
            helper.make_node("Flatten", ["wide"], ["flat"], "flatten"),
            helper.make_node("MatMul", ["flat", "matrix"], ["image_features"], "product"),
        ],
        "network",
        [helper.make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, ["batch", 3, 64, 64])],
        [helper.make_tensor_value_info("image_features", onnx.TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_eight_bits_are_near(tmp_path: Path, reference: Reference, runtime: str) -> None:
    """All weights have 8 bits, and the features of images that set the scales are nearly those of fp32."""
    exact, rounded = tmp_path / VISION, tmp_path / "rounded.onnx"
    write_network(exact)
    pixels = reference.pixel_values
    quantize_network(exact, pixels, rounded, runtime)

    weights = [weight for weight in onnx.load(rounded).graph.initializer if len(weight.dims) > 1]
    assert {weight.data_type for weight in weights} == {onnx.TensorProto.INT8}
    wanted = encode(exact, EXACT, pixels)
    change = np.abs(encode(rounded, EncoderConfig(runtime, "int8"), pixels) - wanted).max() / np.abs(wanted).max()
    assert 0 < change < 0.05


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_eight_bits_in_any_order(quantized: Path, reference: Reference, runtime: str) -> None:
    """In all bits, of a whole vision encoder."""
    pixels = reference.pixel_values
    found, again = (encode(quantized, EncoderConfig(runtime, "int8"), images) for images in (pixels, pixels[::-1]))
    assert np.array_equal(found, again[::-1])


def test_the_log_is_as_before_a_network_that_cannot_be_rounded(tmp_path: Path) -> None:
    """Warnings are left out only meanwhile, and what was left out before still is."""
    write_network(tmp_path / VISION)
    for disabled in (logging.NOTSET, logging.ERROR):
        logging.disable(disabled)
        try:
            with pytest.raises(Exception, match="Invalid rank for input"):
                quantize_network(tmp_path / VISION, np.zeros((1, 2), np.float32), tmp_path / "out.onnx", "openvino")
            assert logging.root.manager.disable == disabled
        finally:
            logging.disable(logging.NOTSET)


def test_quantizing_again_gives_the_same_bytes(tiny_archive: Path, quantized: Path, reference: Reference) -> None:
    """Archives are reproducible."""
    again = quantized.parent / "again.onnx"
    quantize_network(tiny_archive / VISION, reference.pixel_values[::2], again, "openvino")
    weights = [file.read_bytes() for file in (quantized.with_name(f"{name}.data") for name in (VISION, again.name))]
    assert weights[0] == weights[1]


@pytest.fixture
def exported(tiny_archive: Path, tmp_path: Path) -> Path:
    """A folder with both networks."""
    for name in (VISION, CONNECTOR):
        for file in (name, f"{name}.data"):
            shutil.copyfile(tiny_archive / file, tmp_path / file)
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
    monkeypatch.setattr(module, "FASTEST_FIRST", {family(): {"openvino": order}})

    settled, measured, _ = settle_encoder(model, EncoderConfig("openvino", AUTO), reference, None, exported)

    assert settled == EncoderConfig("openvino", [*order, "fp32"][spoiled])
    assert measured is not None
    assert [*measured.changed] == [*measured.features] == [*measured.together] == [*order[: spoiled + 1]]
    assert all((change > 1) == (precision in order[:spoiled]) for precision, change in measured.features.items())
    assert ((exported / VISION).read_bytes() == before) == (spoiled > 0)


@pytest.mark.parametrize("spoiled", [0, 1, 2])
def test_the_connector_is_chosen_apart(
    model: Model, reference: Reference, exported: Path, monkeypatch: pytest.MonkeyPatch, spoiled: int
) -> None:
    """By the same rule, after the encoder, whose file stays; by what the decoder reads."""
    order = ("int8", "bf16")
    before = [(exported / name).read_bytes() for name in (VISION, CONNECTOR)]

    def changed(path: Path, encoder: EncoderConfig, image_features: Array) -> Array:
        found = connect(path, EXACT, image_features)
        return -found if encoder.connector in order[:spoiled] else found

    monkeypatch.setattr(module, "LIMIT", 0.5)
    monkeypatch.setattr(module, "connect", changed)
    monkeypatch.setattr(module, "FASTEST_FIRST", {family(): {"openvino": order}})

    settled, _, measured = settle_encoder(model, EncoderConfig("openvino", connector=AUTO), reference, None, exported)

    assert settled == EncoderConfig("openvino", connector=[*order, "fp32"][spoiled])
    assert measured is not None
    assert [*measured.changed] == [*measured.together] == [*measured.embeds] == [*order[: spoiled + 1]]
    assert measured.features == {}
    assert all((share > 0.5) == (precision in order[:spoiled]) for precision, share in measured.changed.items())
    after = [(exported / name).read_bytes() for name in (VISION, CONNECTOR)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, spoiled > 0]


def test_an_archive_has_what_was_measured(tmp_path: Path, images: Path) -> None:
    """In model.yaml and in the card; its reports do not depend on neighbors."""
    encoder = EncoderConfig("openvino", "int8", "int8")
    folder = write_tiny_model(tmp_path / "mine", dataclasses.replace(CONFIG, encoder=encoder))
    (folder / MODEL_CARD).write_text("# Mine\n", encoding="utf-8")

    path = write_archive(folder, tmp_path / "store", batching="dynamic", slots=2, images=images)

    with zipfile.ZipFile(path) as archive:
        config = ModelConfig.from_mapping(yaml.safe_load(archive.read("model.yaml")), "model.yaml")
        card = archive.read(MODEL_CARD).decode()
    assert config.encoder == encoder
    assert config.measured_encoder is not None
    assert config.measured_connector is not None
    assert config.measured_encoder.features.keys() == config.measured_connector.embeds.keys() == {"int8"}
    assert "vision encoder runs in openvino int8" in card
    assert "connector runs in openvino int8" in card
    requests = [ReportRequest(image=png(seed)) for seed in range(3)]
    generator = ReportGenerator.load(path)
    together = generator.generate(requests)
    generator.reset()
    alone = [generator.generate([request])[0] for request in reversed(requests)]
    for one, other in zip(together, reversed(alone), strict=True):
        assert isinstance(one, Report)
        assert isinstance(other, Report)
        assert (one.token_ids, one.logprobs) == (other.token_ids, other.logprobs)


def test_auto_covers_the_encoder(model: Model) -> None:
    """And the connector, unless model.yaml names one, or a gate or a calibration is of what fp32 gives."""

    def choose(**values: object) -> EncoderConfig:
        config = dataclasses.replace(
            CONFIG, **{name: values.pop(name) for name in ("precision", "encoder") if name in values}
        )
        return wanted_encoder(dataclasses.replace(model, config=config, **values))

    assert choose() == choose(precision=AUTO, encoder=EXACT) == choose(precision=AUTO, confidence=object()) == EXACT
    assert choose(precision=AUTO) == EncoderConfig(precision=AUTO, connector=AUTO)
    assert choose(precision=AUTO, gate=object()) == EncoderConfig(connector=AUTO)
    with pytest.raises(ArchiveError, match=r"connector is int8, but confidence\.json is of a connector in fp32"):
        choose(encoder=EncoderConfig(connector="int8"), confidence=object())
    with pytest.raises(ArchiveError, match=r"encoder\.precision is auto, but gate\.safetensors is of one precision"):
        choose(encoder=EncoderConfig("openvino", AUTO), gate=object())


def test_eight_bits_need_images(model: Model) -> None:
    """Their scales are those of images; bf16 has none, and is not measured without them."""
    for part in PARTS:
        for precision in ("int8", AUTO):
            config = dataclasses.replace(CONFIG, encoder=EncoderConfig("openvino", **{part: precision}))
            with pytest.raises(ArchiveError, match=rf"encoder\.{part}: {precision} needs .* --images FOLDER"):
                settle_precision(dataclasses.replace(model, config=config), None)
    named = dataclasses.replace(model, config=dataclasses.replace(CONFIG, encoder=EncoderConfig("openvino", "bf16")))
    assert settle_precision(named, None) == Settled(named, EncoderConfig("openvino", "bf16"))


def test_an_archive_has_one_precision(tiny_archive: Path, tmp_path: Path) -> None:
    """One that was edited is an error at its start."""
    folder = shutil.copytree(tiny_archive, tmp_path / "archive")
    config = ModelConfig.read(folder / "model.yaml")
    for part in PARTS:
        dataclasses.replace(config, encoder=EncoderConfig(**{part: AUTO})).write(folder / "model.yaml")
        write_manifest(folder)
        with pytest.raises(ArchiveError, match=rf"encoder\.{part} is auto; an archive has one"):
            read_archive(folder)
