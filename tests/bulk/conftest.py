"""A small archive and images whose reports differ."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prelim.archive.mar import write_mar


@pytest.fixture(scope="session")
def tiny_mar(tiny_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_archive` as a .mar."""
    return write_mar(tiny_archive, tmp_path_factory.mktemp("store") / "tiny.mar")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 70 small images and one file that is not an image."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number in range(70):
        pixels = random.normal(0, 1, (64, 64)).cumsum(0).cumsum(1)
        pixels = 255 * (pixels - pixels.min()) / np.ptp(pixels)
        path = folder / f"{number // 10}" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    (folder / "9").mkdir()
    (folder / "9" / "broken.png").write_bytes(b"not an image")
    return folder
