"""model.yaml is read back as it was written, and its mistakes are named."""

import dataclasses
from pathlib import Path

import pytest
import yaml
from tokenizers import Tokenizer, models

from prelim.archive.model_config import ModelConfig
from prelim.decoders.decoder import IMAGE
from prelim.errors import ArchiveError
from prelim.generation.prompt import NoPrompt, Prompter
from prelim.generation.prompt_config import PromptConfig
from prelim.networks.model_folder import read_model_folder
from tests.tiny_model import CONFIG, write_tiny_model


@pytest.mark.parametrize("text", ["version: 2024-99-99", f"vision: {'[' * 3000}", "vision: [a"])
def test_what_is_not_yaml_is_refused(text: str, tmp_path: Path) -> None:
    """Its reader has more errors than its own."""
    (tmp_path / "model.yaml").write_text(text, encoding="utf-8")

    with pytest.raises(ArchiveError, match=r"model\.yaml cannot be read"):
        ModelConfig.read(tmp_path / "model.yaml")


def test_reading_gives_what_was_written(tmp_path: Path) -> None:
    """A configuration survives the round trip through YAML."""
    CONFIG.write(tmp_path / "model.yaml")

    assert ModelConfig.read(tmp_path / "model.yaml") == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color": 1}, "unknown key 'color'; known: name, version"),
        ({"tokenizer": {"bos_token_id": 1, "eos_token_id": 2}}, "section tokenizer lacks the key 'pad_token_id'"),
        ({"tokenizer": None}, "section tokenizer is NoneType"),
        ({"tokenizer": {"bos_token_id": 1, "eos_token_id": [], "pad_token_id": 0}}, "eos_token_id is an empty list"),
        ({"input": {"modalitys": ["CR"]}}, "section input has the unknown key 'modalitys'"),
        ({"input": {"modalities": "CR"}}, "modalities"),
        ({"input": {"render": "pretty"}}, "render"),
        ({"preprocess": {"size": 64, "interpolation": "magic"}}, "interpolation"),
        ({"generation": {"num_beams": 99}}, "num_beams is 99"),
        ({"generation": {"beams": 3}}, "unknown option 'beams'"),
    ],
)
def test_mistake_is_named_with_the_file(tmp_path: Path, change: dict[str, object], message: str) -> None:
    """A wrong model.yaml raises ArchiveError that names the file, the section and the key."""
    path = tmp_path / "model.yaml"
    CONFIG.write(path)
    contents = yaml.safe_load(path.read_text()) | change
    path.write_text(yaml.safe_dump(contents))

    with pytest.raises(ArchiveError) as raised:
        ModelConfig.read(path)

    assert message in str(raised.value)


def test_what_a_model_reads_before_the_report() -> None:
    """The words of its prompt, in the vocabulary of its decoder; without such a section its start token."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))  # noqa: S106 - a token of text
    prompt = PromptConfig(before="b", bos_token_id=7)
    with_prompt = dataclasses.replace(CONFIG, prompt=prompt, decoder={"vocab_size": 2}).prompter(tokenizer)
    without = dataclasses.replace(CONFIG, prompt=None).prompter(tokenizer)

    assert isinstance(with_prompt, Prompter)
    assert with_prompt.ids("a", None) == (7, 0, IMAGE, 1)
    assert isinstance(without, NoPrompt)
    assert without.ids(None, None) == (CONFIG.tokenizer.bos_token_id,)


@pytest.mark.parametrize(
    ("value", "allowed"),
    [(1e-9, True), (0.999, True), (0, False), (1, False), (1.5, False), (-0.1, False), ("0.9", False), (None, False)],
)
def test_level_below_which_sentences_are_confirmed(value: object, allowed: bool) -> None:
    """Between 0 and 1, without these; 0.9 unless set, as the calibration is described."""
    if allowed:
        assert dataclasses.replace(CONFIG, confirm_below=value).confirm_below == value  # type: ignore[arg-type]
    else:
        with pytest.raises(ArchiveError, match=r"confirm_below is .*; allowed: above 0 and below 1"):
            dataclasses.replace(CONFIG, confirm_below=value)  # type: ignore[arg-type]
    assert CONFIG.confirm_below == 0.9


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A folder without model.yaml is an ArchiveError that says so."""
    with pytest.raises(ArchiveError, match=r"model\.yaml cannot be read"):
        read_model_folder(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """Weights that do not fit model.yaml raise ArchiveError that lists the keys."""
    folder = write_tiny_model(tmp_path / "tiny")
    contents = yaml.safe_load((folder / "model.yaml").read_text())
    contents["decoder"]["feedforward"] = 128
    (folder / "model.yaml").write_text(yaml.safe_dump(contents))

    with pytest.raises(ArchiveError, match=r"decoder\.layers\.0\.linear1\.weight has shape \(64, 32\), expected \(128"):
        read_model_folder(folder)
