"""What a server says of an archive that it cannot load."""

import zipfile
from pathlib import Path

import pytest

from launcher.local_server import LocalServer
from tests.server.conftest import MODEL

pytestmark = pytest.mark.server


def test_damaged_archive_is_never_served(store: Path, tmp_path: Path) -> None:
    """An archive with one changed byte does not become ready, and the reason names the file and both hashes."""
    with zipfile.ZipFile(store / f"{MODEL}.mar") as good, zipfile.ZipFile(tmp_path / f"{MODEL}.mar", "w") as damaged:
        for name in good.namelist():
            contents = good.read(name)
            damaged.writestr(name, contents[:-1] + b"?" if name == "decoder.safetensors" else contents)

    with LocalServer(tmp_path) as server, pytest.raises(RuntimeError, match=r"decoder\.safetensors has sha256 .* says"):
        server.wait_until_ready(MODEL, seconds=120)
