"""An archive is read file by file: a missing file is named, and the decoder has the weights that are stored."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models

from prelim.archive.archive import (
    ARCHIVE_FILES,
    CONFIG,
    DECODER,
    TOKENIZER,
    load_decoder,
    load_tokenizer,
    read_archive,
    unpack_archive,
)
from prelim.archive.manifest import write_manifest
from prelim.archive.mar import write_mar
from prelim.archive.model_config import ModelConfig, SpecialTokens
from prelim.decoders import build_decoder
from prelim.decoders.weights_file import write_weights
from prelim.errors import ArchiveError
from prelim.generation.options import GenerationOptions
from prelim.generation.prompt_config import PromptConfig
from tests.tiny_model import CONFIG as MODEL_CONFIG


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An archive whose ONNX files are empty, which nothing here opens."""
    folder = tmp_path / "archive"
    folder.mkdir()
    MODEL_CONFIG.write(folder / CONFIG)
    for name in ARCHIVE_FILES:
        (folder / name).write_bytes(b"")
    torch.manual_seed(0)
    write_weights(folder / DECODER, build_decoder(MODEL_CONFIG.decoder).state_dict())
    Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(folder / TOKENIZER))  # noqa: S106
    write_manifest(folder)
    return folder


def test_archive_is_read_packed_and_unpacked(folder: Path, tmp_path: Path) -> None:
    """Configuration, sha256 of every file and of the manifest."""
    target = tmp_path / "unpacked"
    target.mkdir()

    archive = read_archive(folder)

    assert (archive.folder, archive.config) == (folder, MODEL_CONFIG)
    assert set(archive.files) == {CONFIG, *ARCHIVE_FILES}
    unpacked = unpack_archive(write_mar(folder, tmp_path / "x.mar"), target)
    assert dataclasses.replace(unpacked, folder=folder) == archive
    assert ARCHIVE_FILES == ("vision.onnx", "connector.onnx", "decoder.safetensors", "tokenizer.json")


@pytest.mark.parametrize("name", [CONFIG, *ARCHIVE_FILES])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    """A manifest without one of the files that every archive has is refused."""
    (folder / name).unlink()
    write_manifest(folder)

    with pytest.raises(ArchiveError, match=f"lacks {name}; build the archive"):
        read_archive(folder)


@pytest.mark.parametrize("packed", [True, False])
def test_decoder_has_the_stored_weights(folder: Path, packed: bool) -> None:
    """In evaluation mode, without gradients, on the processor."""
    decoder: Any = load_decoder(read_archive(folder), packed=packed)

    torch.manual_seed(0)
    expected: Any = build_decoder(MODEL_CONFIG.decoder)
    assert torch.equal(decoder.token_embedding.table.weight, expected.token_embedding.weight)
    assert torch.equal(decoder.layers[1].linear1.weight, expected.layers[1].linear1.weight)
    assert not decoder.training
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "rnn"}, r"model\.yaml, section decoder: decoder kind is 'rnn'"),
        ({"depth": 3}, r"model\.yaml, section decoder: .*depth"),
        ({"feedforward": 65}, "does not fit model.yaml"),
    ],
)
def test_decoder_that_cannot_be_built_is_explained(folder: Path, change: dict[str, Any], message: str) -> None:
    """With the section that is wrong."""
    config = dataclasses.replace(MODEL_CONFIG, decoder={**MODEL_CONFIG.decoder, **change})
    config.write(folder / CONFIG)
    write_manifest(folder)

    with pytest.raises(ArchiveError, match=message):
        load_decoder(read_archive(folder))


def test_tokenizer_is_read(folder: Path) -> None:
    """Damaged or missing, it is named."""
    assert load_tokenizer(folder).encode("a").ids == [0]
    (folder / TOKENIZER).write_text("{")
    with pytest.raises(ArchiveError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(folder)
    with pytest.raises(ArchiveError, match=r"tokenizer\.json cannot be read: No such file"):
        load_tokenizer(folder / "none")


def contents() -> dict[str, Any]:
    """The parsed model.yaml of the tiny model."""
    values: dict[str, Any] = yaml.safe_load(yaml.safe_dump(_plain(dataclasses.asdict(MODEL_CONFIG))))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def test_what_model_yaml_may_leave_out() -> None:
    """Generation, precision and prompt have defaults; an empty section is the default as well."""
    values = contents()
    for name in ("generation", "precision", "prompt"):
        del values[name]
    found = ModelConfig.from_mapping(values, "x")

    assert (found.generation, found.precision, found.prompt) == (GenerationOptions(), "fp32", None)
    assert ModelConfig.from_mapping(values | {"generation": None, "prompt": None}, "x") == found
    with_prompt = ModelConfig.from_mapping(values | {"prompt": {"start_ids": [1, 2]}}, "x").prompt
    assert with_prompt == PromptConfig(start_ids=(1, 2))
    assert ModelConfig.from_mapping(contents(), "x") == MODEL_CONFIG
    assert MODEL_CONFIG.tokenizer == SpecialTokens(2, 3, 0)


def test_model_yaml_is_in_the_documented_order(folder: Path) -> None:
    """A person who edits it finds name and version first."""
    keys = list(yaml.safe_load((folder / CONFIG).read_text()))

    assert keys == [field.name for field in dataclasses.fields(ModelConfig)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: [v], "x: the file is list, it must be a mapping"),
        (lambda v: None, "x: the file is NoneType"),
        (lambda v: {k: v[k] for k in v if k != "vision"}, "x: the file lacks the key 'vision'"),
        (lambda v: {k: v[k] for k in v if k not in ("name", "architecture")}, "lacks the key 'architecture'"),
        (lambda v: v | {"zebra": 1, "aardvark": 2}, "unknown key 'aardvark'; known: name, version"),
        (lambda v: v | {"prompt": {"befor": ""}}, "section prompt has the unknown key 'befor'"),
        (lambda v: v | {"prompt": "hi"}, "section prompt is str"),
        (lambda v: v | {"precision": "fp8"}, "precision is 'fp8'"),
        (lambda v: v | {"preprocess": {}}, "section preprocess lacks the key 'size'"),
        (lambda v: {k: v[k] for k in v if k != "input"}, "x: the file lacks the key 'input'"),
    ],
)
def test_model_yaml_with_mistakes(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    """The first mistake is named with its section."""
    with pytest.raises(ArchiveError, match=message):
        ModelConfig.from_mapping(change(contents()), "x")


@pytest.mark.parametrize("damage", [b"[1", b"\xff\xfe\x00", None])
def test_model_yaml_that_cannot_be_read(damage: bytes | None, tmp_path: Path) -> None:
    """Not YAML, not UTF-8, or not there."""
    path = tmp_path / "model.yaml"
    if damage is not None:
        path.write_bytes(damage)

    with pytest.raises(ArchiveError, match=r"model\.yaml cannot be read"):
        ModelConfig.read(path)
