"""Vision encoders of convolutions: exported, with products of 8 bits, under the rule of changed tokens."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from export import choose_encoder
from export.choose_encoder import encode, settle_encoder
from export.package import ROOT
from export.quantize_network import quantize_network
from export.reference import read_reference
from prelim.archive.archive import VISION
from prelim.archive.encoder_config import AUTO, EXACT, INT8, RUNTIMES, EncoderConfig
from prelim.kernels import family
from prelim.networks.agreement import LIMIT
from prelim.networks.model_folder import Model, read_model_folder
from tests.archives import write_files
from tests.model_src.networks.architectures.small_llama import small_model
from tests.tiny_model import png


def read_demo() -> Model:
    """The demo, whose EfficientNet-Lite0 has trained weights."""
    return read_model_folder(ROOT / "models" / "demo")


def check(model: Model, exact: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All filters have 8 bits, in every runtime, and features go with those of fp32; taken if few tokens change.

    exact  : unpacked archive in fp32
    folder : empty
    """
    images = folder / "images"
    images.mkdir()
    for seed in range(4):
        (images / f"{seed}.png").write_bytes(png(seed))
    reference = read_reference(model, images, "a test")
    pixels = reference.pixel_values
    wanted = encode(exact / VISION, EXACT, pixels)
    for runtime in RUNTIMES:
        tried, rounded, copy = EncoderConfig(runtime, INT8), folder / f"{runtime}.onnx", folder / runtime
        quantize_network(exact / VISION, pixels, rounded, runtime)
        filters = {w.data_type for w in onnx.load(rounded).graph.initializer if len(w.dims) == 4}
        assert filters == {onnx.TensorProto.INT8}
        found, again = (encode(rounded, tried, given) for given in (pixels, pixels[::-1]))
        assert np.array_equal(found, again[::-1])
        # Random weights of many layers make much of small changes.
        assert 0.5 < np.corrcoef(found.ravel(), wanted.ravel())[0, 1] < 1

        shutil.copytree(exact, copy)
        monkeypatch.setattr(choose_encoder, "FASTEST_FIRST", {family(): {runtime: (INT8,)}})
        settled, measured, _ = settle_encoder(model, EncoderConfig(runtime, AUTO), reference, None, copy)
        assert measured is not None
        kept = max(measured.changed[INT8], measured.together[INT8]) <= LIMIT
        assert settled == (tried if kept else EncoderConfig(runtime))


def test_mobilenet_has_eight_bits(
    tiny_model: Path, tiny_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MobileNetV3-small, system 1."""
    check(read_model_folder(tiny_model), tiny_archive, tmp_path, monkeypatch)


@pytest.mark.exhaustive
@pytest.mark.parametrize("make_model", [small_model, read_demo])
def test_other_convolutions_have_eight_bits(
    make_model: Callable[[], Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DenseNet with one layer in each block, system 2, and EfficientNet-Lite0, the demo."""
    model, exact, folder = make_model(), tmp_path / "exact", tmp_path / "work"
    exact.mkdir()
    folder.mkdir()
    write_files(model, exact)
    check(model, exact, folder, monkeypatch)
