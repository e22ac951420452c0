"""An import never destroys a file that somebody wrote."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from export.import_checkpoint import import_checkpoint
from prelim.archive.archive import CONFIG
from prelim.errors import ArchiveError
from tests.export.test_import_checkpoint import published
from tests.export.test_ordinary_checkpoints import SYSTEM, import_file

__all__ = ["published"]


def test_checkpoint_is_not_replaced_by_its_import(published: dict[str, Tensor], tmp_path: Path) -> None:
    """A folder of transformers and a model folder have weights of the same name."""
    path = tmp_path / "model.safetensors"
    save_file(published, path)
    before = path.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)

    for out in (tmp_path, tmp_path / "link"):
        for source in (tmp_path, path):
            with pytest.raises(ArchiveError, match=r"would replace .*model\.safetensors, which is imported"):
                import_checkpoint(SYSTEM, [source], None, out, "small")

    assert path.read_bytes() == before
    assert not (tmp_path / CONFIG).exists()


def test_comments_in_settings_are_kept(published: dict[str, Tensor], tmp_path: Path) -> None:
    """A second import leaves a model.yaml with the same values as it is."""
    path, file = tmp_path / "a.pth", tmp_path / "model" / CONFIG
    torch.save(published, path)
    import_file(path)
    edited = f"# reviewed\n{file.read_text(encoding='utf-8')}"
    file.write_text(edited, encoding="utf-8")

    import_file(path)

    assert file.read_text(encoding="utf-8") == edited
