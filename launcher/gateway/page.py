"""What the page is told, and its samples."""

import contextlib
from pathlib import Path
from typing import Any

from launcher.environment import ROOT
from launcher.gateway.drafts import FORMATS
from launcher.gateway.settings import Settings
from launcher.sample_radiograph import sample_radiograph

SAMPLES = {"rg1.dcm": "Chest PA, DICOM", "chest.jpg": "Chest, JPEG"}
"""Radiographs for people who have none at hand: name of the file -> what the page calls it."""


def describe_page(settings: Settings, models: list[str]) -> dict[str, Any]:
    """What the page needs to know."""
    names = sorted(models, key=lambda name: (name != settings.model, name))
    drafts = list(FORMATS) if settings.drafts else []
    samples = [{"file": f"samples/{file}", "title": title} for file, title in SAMPLES.items()]
    return {"models": names, "needs_key": settings.keys is not None, "samples": samples, "drafts": drafts}


def write_samples(folder: Path) -> None:
    """Write the samples for nginx."""
    (folder / "chest.jpg").write_bytes((ROOT / "docs" / "images" / "chest.jpg").read_bytes())
    with contextlib.suppress(FileNotFoundError):
        (folder / "rg1.dcm").write_bytes(sample_radiograph())
