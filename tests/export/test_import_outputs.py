"""What an import writes: its card, its settings and where; and the check of an archive afterwards."""

from pathlib import Path

import pytest
import torch

from export.import_checkpoint import main
from export.verify import main as verify
from prelim.archive.archive import CONFIG
from prelim.archive.model_config import ModelConfig
from prelim.errors import ArchiveError
from prelim.networks.model_folder import MODEL_CARD
from tests.export.test_import_checkpoint import PARTS, published
from tests.export.test_ordinary_checkpoints import SYSTEM, State, import_file

__all__ = ["published"]


def test_assumptions_of_every_system_are_in_its_card(published: State, tmp_path: Path) -> None:
    """Heads, graph steps and the form of the layers are assumed, and an option replaces an assumption."""
    torch.save(published, tmp_path / "a.pth")
    import_file(tmp_path / "a.pth", options={"decoder.heads": 4})

    card = (tmp_path / "model" / MODEL_CARD).read_text(encoding="utf-8")
    config = ModelConfig.read(tmp_path / "model" / CONFIG)
    assert "- assumed: connector.steps = 3" in card
    assert "post-norm" in card
    assert "decoder.heads" not in card.split("## What was fixed")[0]
    assert (config.decoder["heads"], config.connector["steps"]) == (4, PARTS["connector"].get("steps", 3))


def test_edited_settings_are_not_lost(published: State, tmp_path: Path) -> None:
    """A second import refuses to replace an edited model.yaml, unless asked to; an unchanged one is replaced."""
    path, file = tmp_path / "a.pth", tmp_path / "model" / CONFIG
    torch.save(published, path)
    import_file(path)
    import_file(path)
    original = file.read_text(encoding="utf-8")
    file.write_text(original.replace("precision: fp32", "precision: bf16"), encoding="utf-8")

    with pytest.raises(
        ArchiveError, match=r"model\.yaml exists and differs from this import in precision; .*--overwrite"
    ):
        import_file(path)

    assert "bf16" in file.read_text(encoding="utf-8")
    import_file(path, overwrite=True)
    assert file.read_text(encoding="utf-8") == original


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_out_on_a_file_is_refused(out: str, published: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line instead of a traceback."""
    torch.save(published, tmp_path / "a.pth")
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("sys.argv", ["x", SYSTEM, str(tmp_path / "a.pth"), "--out", str(tmp_path / out)])

    with pytest.raises(SystemExit, match=r"file is a file; give a new or existing folder"):
        main()

    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["none.mar", "there.png"], "none.mar"), ([".", "there.png"], "."), (["a.mar", "b.png"], "b.png")],
)
def test_verify_without_an_archive_or_image_is_one_line(
    arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing file is named, without a traceback."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").write_bytes(b"")
    monkeypatch.setattr("sys.argv", ["verify", *arguments])

    with pytest.raises(SystemExit) as raised:
        verify()

    assert named in str(raised.value)
    assert "Traceback" not in str(raised.value)
