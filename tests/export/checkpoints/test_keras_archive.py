"""`.keras` files are imported completely, without Keras."""

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from export.checkpoints.keras_archive import _tensors, read_keras
from export.import_checkpoint import import_checkpoint
from prelim.errors import ArchiveError
from prelim.networks.model_folder import read_network
from tests.tiny_xreport import PARTS, POSITIONS, SIZE, keras_datasets, tiny_network, write_keras


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_import_equals_the_file(tmp_path: Path, compression: int) -> None:
    """Dimensions and weights equal those of the file for any numbering of its layers."""
    network = tiny_network()
    write_keras(tmp_path / "saved_model.keras", keras_datasets(network), compression)

    import_checkpoint("xreport", [tmp_path], None, tmp_path / "model", "tiny")

    config, imported = read_network(tmp_path / "model")
    assert {"vision": config.vision, "connector": config.connector, "decoder": config.decoder} == PARTS
    assert (config.preprocess.size, config.generation.max_new_tokens) == (SIZE, POSITIONS)
    expected = network.state_dict()
    for key, value in imported.state_dict().items():
        assert "num_batches" in key or torch.equal(value, expected[key]), key


def test_ignored_optimizer_state_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Optimizer state is ignored with the reason."""
    path = write_keras(tmp_path / "saved_model.keras", keras_datasets(tiny_network()))

    import_checkpoint("xreport", [path], None, tmp_path / "model", "tiny")

    assert "ignored optimizer/vars/0: optimizer state" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        (
            "layers/transformer_decoder_9/self_attention/key_dense/vars/0",
            r"missing: TransformerDecoder\.1/self_attention/\{query,key,value\}_dense/vars/0",
        ),
        ("layers/image_encoder/ffn/batch_norm/vars/2", r"missing: ImageEncoder\.0/ffn/batch_norm/vars/2$"),
        (
            "layers/transformer_encoder_7/addnorm1/layernorm/vars/0",
            r"missing: TransformerEncoder\.1/addnorm1/layernorm/vars/0",
        ),
        (
            "layers/positional_embedding/token_embeddings/vars/0",
            r"size: PositionalEmbedding\.0/token_embeddings/vars/0$",
        ),
    ],
)
def test_missing_dataset_is_named(tmp_path: Path, lost: str, named: str) -> None:
    """A file without one of its datasets is an error with our key."""
    datasets = keras_datasets(tiny_network())
    del datasets[lost]
    path = write_keras(tmp_path / "saved_model.keras", datasets)

    with pytest.raises(ArchiveError, match=named):
        import_checkpoint("xreport", [path], None, tmp_path / "model", "tiny")


def test_missing_layer_is_named(tmp_path: Path) -> None:
    """A layer of config.json without weights is an error, not replaced by the next layer."""
    datasets = {key: value for key, value in keras_datasets(tiny_network()).items() if "encoder_7" not in key}
    path = write_keras(tmp_path / "saved_model.keras", datasets)

    with pytest.raises(ArchiveError, match=r"2 layers of class TransformerEncoder.* has 1: transformer_encoder"):
        read_keras(path)


@pytest.mark.parametrize("contents", [b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"])
def test_other_files_are_refused(tmp_path: Path, contents: bytes) -> None:
    """A file that is not a zip with the expected members is an error with its name."""
    (tmp_path / "saved_model.keras").write_bytes(contents)

    with pytest.raises(ArchiveError, match=r"saved_model\.keras cannot be read as a \.keras file"):
        read_keras(tmp_path / "saved_model.keras")


def test_releases_differ_in_width_channels_and_temperature(tmp_path: Path) -> None:
    """Dense layers of another width, color images and the classifier's temperature are those of the file."""
    network = tiny_network(dense_width=48, channels=3)
    settings = {"SoftMaxClassifier": {"temperature": 2.0}, "PositionalEmbedding": {"mask_zero": False}}
    path = write_keras(tmp_path / "saved_model.keras", keras_datasets(network), channels=3, settings=settings)

    import_checkpoint("xreport", [path], None, tmp_path / "model", "tiny")

    config, imported = read_network(tmp_path / "model")
    pixel_values = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(imported.vision(pixel_values), network.vision(pixel_values))
    assert torch.equal(imported.decoder.lm_head.weight, network.decoder.lm_head.weight / 2)
    assert (config.preprocess.channels, config.decoder["blank_padding"]) == (3, False)


def test_release_with_beit_is_refused_by_name(tmp_path: Path) -> None:
    """The releases from February 2025 have another encoder, which is named."""
    path = write_keras(tmp_path / "a.keras", keras_datasets(tiny_network()), encoder="BeitXRayImageEncoder")

    with pytest.raises(ArchiveError, match=r"XREPORT, which encodes images with BEiT, .* BeitXRayImageEncoder"):
        import_checkpoint("xreport", [path], None, tmp_path / "model", "tiny")


@pytest.mark.parametrize("kind", ["external storage", "virtual", "text"])
def test_numbers_outside_of_the_file_are_refused(tmp_path: Path, kind: str) -> None:
    """A dataset whose numbers lie in other files could read any file of this machine; text is not a weight."""
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"private!" * 4)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["numbers"] = np.arange(4.0)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["good"] = np.arange(3.0)
        if kind == "external storage":
            file.create_dataset("bad", (4,), "f8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4,), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "numbers", (4,))
            file.create_virtual_dataset("bad", layout)
        else:
            file["bad"] = "private"
    with (
        h5py.File(tmp_path / "weights.h5") as file,
        pytest.raises(ArchiveError, match="bad is not a numeric array stored in the file"),
    ):
        _tensors(file, tmp_path)


def test_links_to_other_files_are_not_followed(tmp_path: Path) -> None:
    """Neither external nor soft links add a tensor."""
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["numbers"] = np.arange(4.0)
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file["group/good"] = np.arange(3.0)
        file["external"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/numbers")
        file["soft"] = h5py.SoftLink("/group/good")

    with h5py.File(tmp_path / "weights.h5") as file:
        tensors = _tensors(file, tmp_path)

    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"group/good": [0, 1, 2]}


@pytest.mark.parametrize(
    ("settings", "channels", "message"),
    [
        ({"TransformerDecoder": {"activation": "gelu"}}, 1, "TransformerDecoder has activation = 'gelu'; only 'relu'"),
        ({"TransformerEncoder": {"norm_first": True}}, 1, "norm_first = True; only False"),
        ({"PositionalEmbedding": {"embedding_scale": False}}, 1, "embedding_scale = False; only True"),
        ({"ImageEncoder": {"pooling": "max"}}, 1, "pooling = 'max'; only 'average'"),
        ({"SoftMaxClassifier": {"temperature": "x"}}, 1, "temperature = 'x'; it must be a number above 0"),
        ({"SoftMaxClassifier": {"temperature": 0}}, 1, "temperature = 0; it must be a number above 0"),
        ({"SoftMaxClassifier": []}, 1, "the settings of a layer in config.json are not an object"),
        ({}, 3, rf"has the shape \({SIZE}, {SIZE}, 3\); the encoder needs \(size, size, 1\)"),
    ],
)
def test_settings_that_change_the_network_are_refused(
    tmp_path: Path, settings: dict[str, Any], channels: int, message: str
) -> None:
    """What a fork may write into its layers and is computed differently here is named."""
    path = write_keras(tmp_path / "a.keras", keras_datasets(tiny_network()), channels=channels, settings=settings)

    with pytest.raises(ArchiveError, match=message):
        import_checkpoint("xreport", [path], None, tmp_path / "model", "tiny")
