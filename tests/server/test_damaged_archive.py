"""What is said of an archive that must not be served."""

import zipfile
from pathlib import Path

import pytest

from launcher.errors import LaunchError
from launcher.local_server import LocalServer
from tests.server.conftest import MODEL

pytestmark = pytest.mark.server


@pytest.fixture
def damaged(store: Path, tmp_path: Path) -> Path:
    """A store with an archive that has one changed byte."""
    with zipfile.ZipFile(store / f"{MODEL}.mar") as good, zipfile.ZipFile(tmp_path / f"{MODEL}.mar", "w") as bad:
        for name in good.namelist():
            contents = good.read(name)
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            bad.writestr(entry, contents[:-1] + b"?" if name == "decoder.safetensors" else contents)
    return tmp_path


def test_launcher_refuses_a_damaged_archive(damaged: Path) -> None:
    """No server is started for an archive with one changed byte, and the reason names the file and both hashes."""
    with pytest.raises(LaunchError, match=r"decoder\.safetensors has sha256 .* manifest\.json says"):
        LocalServer(damaged)


def test_worker_refuses_a_damaged_archive(damaged: Path) -> None:
    """Without the launcher's check it does not become ready either, as long as its own code is sound."""
    with (
        LocalServer(damaged, check=False) as server,
        pytest.raises(LaunchError, match=r"decoder\.safetensors has sha256 .* manifest\.json says"),
    ):
        server.wait_until_ready(MODEL, seconds=120)
