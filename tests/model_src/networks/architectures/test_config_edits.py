"""Edits of a folder's config.json: each is refused by the setting's name, or computed as transformers computes it."""

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from export.import_checkpoint import import_checkpoint
from prelim.errors import ArchiveError
from prelim.networks.model_folder import read_network
from tests.model_src.networks.architectures.edited_folders import DROP, FAMILIES, Edit


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family, which is saved once."""

    @cache
    def save(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family) / "checkpoint"
        FAMILIES[family].save(folder)
        return folder

    return save


def edited(saved: Path, edit: Edit, folder: Path) -> Path:
    """A copy of a folder with this edit of its config.json."""
    shutil.copytree(saved, folder)
    path, value = edit
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    *parts, name = path.split(".")
    section = config
    for part in parts:
        section = section.setdefault(part, {})
    if value is DROP:
        del section[name]
    else:
        assert section.get(name) != value
        section[name] = value
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def cases(outcome: str) -> list[Any]:
    """Family and edit, of all families."""
    return [
        pytest.param(name, edit, id=f"{name} {edit[0]} {number}")
        for name, family in FAMILIES.items()
        for number, edit in enumerate(getattr(family, outcome))
    ]


@pytest.mark.parametrize(("family", "edit"), cases("refused"))
def test_edits_that_are_not_computed_are_refused_by_name(
    family: str, edit: Edit, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whatever would be computed otherwise than transformers does is not imported."""
    folder = edited(saved(family), edit, tmp_path / "checkpoint")

    with pytest.raises(ArchiveError, match=rf"\b{re.escape(edit[0].rpartition('.')[2])}\b"):
        import_checkpoint(family, [folder], None, tmp_path / "model", "edited")


@pytest.mark.parametrize(("family", "edit"), cases("computed"))
def test_other_edits_are_computed_as_transformers_does(
    family: str, edit: Edit, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    """The logits of the imported network are those of the folder that was edited."""
    folder = edited(saved(family), edit, tmp_path / "checkpoint")

    import_checkpoint(family, [folder], None, tmp_path / "model", "edited")

    _, network = read_network(tmp_path / "model")
    with torch.inference_mode():
        expected, found = FAMILIES[family].logits(FAMILIES[family].original(folder), network)
    assert (found - expected).abs().max() < FAMILIES[family].within
