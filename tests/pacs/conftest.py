"""A department in miniature: Orthanc as PACS, a fake server of reports, the bridge between them."""

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.bridge.fake_server import FakeServer
from tests.pacs.bridge_process import BridgeProcess
from tests.pacs.namespace import is_possible, own_network
from tests.pacs.orthanc import Orthanc, missing

HTTP_PORT, DICOM_PORT, HOOK_PORT = 18042, 14242, 18190
"""The namespace is the tests' own, so that fixed ports are free."""


@pytest.fixture
def network() -> Iterator[None]:
    """A network namespace for one test."""
    if absent := missing():
        pytest.skip(f"not installed: {', '.join(absent)}; `make test-pacs` installs them")
    if not is_possible():
        pytest.skip("a network namespace needs root; Orthanc would listen on all interfaces")
    with own_network():
        yield


@dataclass
class Department:
    """What a test works with."""

    pacs: Orthanc
    server: FakeServer
    bridge: BridgeProcess
    folder: Path

    def send(self, *files: bytes) -> None:
        """Send images to the PACS as a modality does."""
        paths = []
        for number, file in enumerate(files):
            path = self.folder / f"image{number}.dcm"
            path.write_bytes(file)
            paths.append(path)
        self.pacs.send(*paths)


@pytest.fixture
def make_department(network: None, tmp_path: Path) -> Iterator[Callable[..., Department]]:
    """Return a function that starts everything; its arguments are sections of the bridge's configuration."""
    started: list[Any] = []

    def make(server_url: str | None = None, key_file: Path | None = None, **sections: dict[str, Any]) -> Department:
        server = FakeServer(tmp_path)
        pacs = Orthanc(
            tmp_path / "orthanc",
            http_port=HTTP_PORT,
            dicom_port=DICOM_PORT,
            bridge=f"http://127.0.0.1:{HOOK_PORT}",
        )
        (tmp_path / "password").write_text(Orthanc.PASSWORD)
        settings: dict[str, Any] = {
            "state": "state",
            "server": {"url": server_url or server.url, "key_file": str(key_file or server.key_file), "timeout_s": 60},
            "dicomweb": {"url": f"{pacs.url}/dicom-web", "user": Orthanc.USER, "password_file": "password"},
            "hook": {"port": HOOK_PORT},
            "poll": {"every_s": 3},
            "queue": {"first_retry_s": 0.5, "longest_retry_s": 4.0},
        }
        for name, section in sections.items():
            settings[name] = {**settings.get(name, {}), **section}
        bridge = BridgeProcess(tmp_path / "bridge", settings)
        bridge.folder.joinpath("password").write_text(Orthanc.PASSWORD)
        for part in (server, pacs, bridge):
            started.append(part.__enter__())
        return Department(pacs, server, bridge, tmp_path)

    yield make
    for part in reversed(started):
        part.__exit__(None, None, None)


def wait_for(found: Callable[[], Any], seconds: float = 60) -> Any:
    """Return the first result that is true."""
    end = time.monotonic() + seconds
    while not (result := found()):
        if time.monotonic() > end:
            raise AssertionError(f"nothing after {seconds} s")
        time.sleep(0.1)
    return result


def check_file(path: Path) -> list[str]:
    """Return the errors that dicom3tools' dciodvfy finds in a DICOM file."""
    output = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False).stderr
    return [line for line in output.splitlines() if line.startswith("Error")]
