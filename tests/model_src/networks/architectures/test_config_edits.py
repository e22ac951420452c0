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
        import_checkpoint(FAMILIES[family].system or family, [folder], None, tmp_path / "model", "edited")


NOT_POSITIVE: tuple[tuple[str, Edit], ...] = (
    ("gemma3", ("text_config.query_pre_attn_scalar", 0)),
    ("gemma3", ("text_config.sliding_window", 0)),
    ("gemma3", ("text_config.rope_parameters", {"full_attention": {"rope_type": "default", "rope_theta": 0}})),
    ("llava", ("text_config.rope_theta", -1.0)),
    ("llava_mistral", ("rope_scaling", {"type": "linear", "factor": 0})),
    ("llava_mistral", ("rope_theta", "1e4")),
    ("qwen2_5_vl", ("vision_config.rope_parameters", {"rope_type": "axial", "rope_theta": 0.0})),
)


@pytest.mark.parametrize(("family", "edit"), NOT_POSITIVE)
def test_numbers_that_must_be_positive(family: str, edit: Edit, saved: Callable[[str], Path], tmp_path: Path) -> None:
    """A division by 0, or attention to nothing, would be found when the first report is NaN."""
    folder = edited(saved(family), edit, tmp_path / "checkpoint")
    message = rf"config\.json: {re.escape(edit[0])}\b.* must be a number above 0"

    with pytest.raises(ArchiveError, match=message):
        import_checkpoint(FAMILIES[family].system or family, [folder], None, tmp_path / "model", "edited")


OTHER_FILES: dict[str, dict[str, Any]] = {
    "generation_config.json": {
        "bad_words_ids": [[3]],
        "forced_eos_token_id": 2,
        "guidance_scale": 1.5,
        "num_beam_groups": 2,
        "renormalize_logits": True,
        "sequence_bias": [[[3], -1.0]],
        "chat_format": "raw",
    },
    "preprocessor_config.json": {
        "do_resize": False,
        "do_thumbnail": True,
        "do_pan_and_scan": True,
        "image_std": [0, 0, 0],
        "rescale_factor": 0,
        "resample": 1,
        "size": {"depth": 30},
        "image_grid_pinpoints": [[336, 672]],
    },
}
"""File -> settings that no family supports."""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("file", "name"), [(file, name) for file, names in OTHER_FILES.items() for name in names])
def test_edits_of_the_other_files_are_refused_by_name(
    family: str, file: str, name: str, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    """Each family reads them: what becomes of the settings that it supports is tested with their readers."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved(family), folder)
    path = folder / file
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**stored, name: OTHER_FILES[file][name]}), encoding="utf-8")

    with pytest.raises(ArchiveError, match=rf"\b{re.escape(name)}\b"):
        import_checkpoint(FAMILIES[family].system or family, [folder], None, tmp_path / "model", "edited")


@pytest.mark.parametrize(("family", "edit"), cases("computed"))
def test_other_edits_are_computed_as_transformers_does(
    family: str, edit: Edit, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    """The logits of the imported network are those of the folder that was edited."""
    folder = edited(saved(family), edit, tmp_path / "checkpoint")

    import_checkpoint(FAMILIES[family].system or family, [folder], None, tmp_path / "model", "edited")

    _, network = read_network(tmp_path / "model")
    with torch.inference_mode():
        expected, found = FAMILIES[family].logits(FAMILIES[family].original(folder), network)
    assert (found - expected).abs().max() < FAMILIES[family].within
