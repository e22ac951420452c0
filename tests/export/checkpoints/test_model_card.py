"""The card of an imported model has what the files show, and marks gaps for its owner."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from export.checkpoints.checkpoint import checkpoint_files
from export.checkpoints.import_source import ImportSource
from export.checkpoints.model_card import write_card
from export.checkpoints.record import ImportRecord
from export.import_checkpoint import import_checkpoint
from prelim.archive.archive import CONFIG
from prelim.archive.model_config import ModelConfig
from prelim.networks.architectures import ARCHITECTURES
from prelim.networks.card_section import GAP
from prelim.networks.model_folder import MODEL_CARD
from prelim.report import NOTICE
from tests.export.test_import_checkpoint import PARTS, published

__all__ = ["published"]

RECORD = ImportRecord(
    ignored={f"text.{i}": "no text is read" for i in range(5)} | {"optimizer/step": "only training needs it"},
    notes=["resized a table from (3,) to (4,)"],
)


def card(system: str, folder: Path, record: ImportRecord = RECORD) -> str:
    """The card of a model with the published defaults of a system."""
    about = ARCHITECTURES[system].published
    mapping = {"preprocess": {"size": 8}, **PARTS, **about.defaults}
    ModelConfig.from_mapping({"name": "a", "version": "1.0", "architecture": system, **mapping}, system).write(
        folder / CONFIG
    )
    weights = {"a": torch.zeros(1000, 3), "b": torch.zeros(2, dtype=torch.float16)}
    write_card(folder, about, weights, record, [])
    return (folder / MODEL_CARD).read_text(encoding="utf-8")


@pytest.mark.parametrize("system", ARCHITECTURES)
def test_card_has_the_facts_of_the_architecture(system: str, tmp_path: Path) -> None:
    """The card has every fixed fault, the origin, the license and the defaults of its system."""
    about = ARCHITECTURES[system].published

    text = card(system, tmp_path)

    assert about.fixed or "None known." in text
    for line in (*about.fixed, about.origin, about.defaults["licence"], NOTICE, f"`{system}`"):
        assert line in text
    for name, value in about.defaults.get("generation", {}).items():
        assert re.search(rf"^  {name}: ", text, flags=re.MULTILINE), f"{name} = {value}"
    assert "3,002 parameters, stored as float32 (1 tensors), float16 (1 tensors)" in text


def test_card_groups_ignored_keys(tmp_path: Path) -> None:
    """Each reason is listed once, with its first keys and the number of the others; notes are unchanged."""
    text = card("mobilenet_graph", tmp_path)

    assert "- no text is read: `text.0`, `text.1`, `text.2` and 2 more\n" in text
    assert "- only training needs it: `optimizer/step`\n" in text
    assert "- resized a table from (3,) to (4,)\n" in text


def test_card_marks_gaps_for_the_owner(tmp_path: Path) -> None:
    """Training data, evaluation and limits are gaps; scores are requested together with those of a constant report."""
    text = card("mobilenet_graph", tmp_path)

    for heading in ("Intended use", "Training data", "Evaluation", "Known limits"):
        section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
        assert GAP in section, heading
    assert "each with the score of a constant report" in text


@pytest.fixture
def checkpoint(published: dict[str, Tensor], tmp_path: Path) -> Path:
    """A folder with a small checkpoint of system 1 and its tokenizer."""
    folder = tmp_path / "txttyt"
    folder.mkdir()
    torch.save(published, folder / "pytorch_model.bin")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmno"]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    return folder


def test_card_has_the_hashes_of_the_files(checkpoint: Path, tmp_path: Path) -> None:
    """Every file of checkpoint and tokenizer is listed with size and sha256, without its parent folders."""
    import_checkpoint("mobilenet_graph", [checkpoint], checkpoint, tmp_path / "model", "small")

    text = (tmp_path / "model" / MODEL_CARD).read_text(encoding="utf-8")
    for name in ("pytorch_model.bin", "vocab.txt"):
        contents = (checkpoint / name).read_bytes()
        assert f"| txttyt/{name} | {len(contents):,} | {hashlib.sha256(contents).hexdigest()} |" in text
    assert str(tmp_path) not in text


def test_files_of_a_source_are_those_that_are_read(checkpoint: Path) -> None:
    """The files of a folder are its weights and settings, without other formats and the tokenizer."""
    file = checkpoint / "pytorch_model.bin"

    assert ImportSource("a.bin", file, tuple(checkpoint_files(file))).file_label(file) == "a.bin"
    assert checkpoint_files(checkpoint) == [file]


def test_existing_card_is_not_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    """A second import does not change a card that its owner has edited."""
    out = tmp_path / "model"
    out.mkdir()
    (out / MODEL_CARD).write_text("written by hand", encoding="utf-8")

    import_checkpoint("mobilenet_graph", [checkpoint], checkpoint, out, "small")

    assert (out / MODEL_CARD).read_text(encoding="utf-8") == "written by hand"
