"""Images whose reports differ, and workers as important as what waits for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_model import png


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 70 small images and one file that is not an image."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(70):
        path = folder / f"{number // 10}" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(number))
    (folder / "9").mkdir()
    (folder / "9" / "broken.png").write_bytes(b"not an image")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _equal_workers() -> Iterator[None]:
    """Ray would let its workers wait for every other process of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        yield
