"""A disk without room: at the start, and while the server runs."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.drain import drain
from launcher.errors import LaunchError
from launcher.gateway.__main__ import _follow
from launcher.gateway.door import STOPPED
from launcher.gateway.gateway import Gateway
from launcher.gateway.keys import add_key
from launcher.gateway.metrics import INTERVAL_S
from launcher.gateway.settings import Settings
from launcher.local_server import LocalServer
from launcher.ports import free_ports
from loadtests.site import following
from prelim_client.http_client import HttpClient
from tests.gateway.conftest import eventually, has_nginx, open_site
from tests.gateway.recorder import Recorder
from tests.gateway.test_follow import running_in
from tests.tiny_model import CONFIG, png

pytestmark = pytest.mark.gateway

MODEL = CONFIG.name
ROOM = "64m"


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small disk, on which servers have their folders."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={ROOM},mode=700"]
    if subprocess.run(["mount", *options, "disk", folder], capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    # In a short path: sockets lie in it.
    short = Path("/tmp", f"prelim-disk-{os.getpid()}")  # noqa: S108
    short.symlink_to(folder)
    monkeypatch.setenv("TMPDIR", f"{short}/prelim-x")
    yield short
    short.unlink()
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all room."""
    file = disk / "filling"
    with file.open("wb") as opened:
        try:
            while True:
                opened.write(bytes(1 << 16))
                opened.flush()
        except OSError:
            return file


def test_gateway_without_room_says_so_and_goes_on(disk: Path) -> None:
    """Bodies that nginx keeps in memory pass, larger ones get 503, so that another host can answer them."""
    recorder = Recorder()
    (disk / "site").mkdir()
    site = open_site(disk / "site", recorder)
    with site.nginx:
        large = bytes(1 << 20)
        assert site.ask("POST", "/predictions/demo", large)[0] == 200
        filling = fill(disk)
        assert site.ask("POST", "/predictions/demo", b"x")[0] == 200
        recorder.seen.clear()
        status, headers, answer = site.ask("POST", "/predictions/demo", large)
        assert (status, headers["retry-after"], answer["error"]["type"]) == (503, "5", "Overloaded")
        assert recorder.seen == []
        filling.unlink()
        assert site.ask("POST", "/predictions/demo", large)[0] == 200
    recorder.close()


def test_gateway_looks_after_its_server_without_room(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It continues, and a server can be stopped; a change is used when there is room, and said once until then."""
    with running_in(disk) as running:
        gateway, keys = running.gateway, running.gateway.settings.keys
        assert keys is not None
        second = add_key(keys, "second")
        filling = fill(disk)
        time.sleep(INTERVAL_S)
        said = _follow(gateway, "")
        assert "No space left on device" in said
        assert _follow(gateway, said) == said
        assert capsys.readouterr().err.count("No space left on device") == 1
        assert running.status(running.site.key) == 200
        running.server.drain = lambda seconds: 0
        assert drain(running.server, 5) == 0
        filling.unlink()
        assert _follow(gateway, said) == ""
        assert eventually(lambda: running.status(second) == 200)
        gateway.door.close(*STOPPED)
        assert running.status(second) == 503


@pytest.mark.server
def test_archive_without_room_is_refused_at_the_start(store: Path, disk: Path) -> None:
    """There is room for logs, not for the unpacked archive: the start ends, with the reason."""
    filling = fill(disk)
    os.truncate(filling, filling.stat().st_size - (1 << 20))
    with LocalServer(store) as server, pytest.raises(LaunchError, match="No space left on device"):
        server.wait_until_ready(MODEL, 60)


@pytest.mark.server
def test_full_disk_is_told_and_passes(store: Path, disk: Path, key: tuple[Path, str]) -> None:
    """Images that nginx keeps in memory are answered, larger ones get an error; with room again, all is as before."""
    if not has_nginx():
        pytest.skip("nginx is not installed; `make test-gateway` installs it")
    http_port, grpc_port = free_ports(2)
    settings = Settings(f"127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", keys=key[0], model=MODEL, drafts=None)
    with LocalServer(store) as server:
        server.wait_until_ready(MODEL)
        with Gateway(server, settings) as gateway:
            gateway.start()
            with following([gateway]):
                client = HttpClient(gateway.url, key[1], MODEL)
                # Bytes after the end of a PNG change nothing.
                small, large = png(1), png(1) + bytes(1 << 20)
                expected = client.report(small)["report"]
                assert client.report(large)["report"] == expected
                filling = fill(disk)
                assert client.report(small)["report"] == expected
                refused = client.post(large)
                assert (refused.status_code, refused.json()["error"]["type"]) == (503, "Overloaded")
                filling.unlink()
                assert eventually(lambda: client.post(large).status_code == 200)
                assert client.report(large)["report"] == expected
