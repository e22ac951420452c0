"""A running gateway notices changed keys and certificates, without a restart."""

import dataclasses
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.errors import LaunchError
from launcher.gateway import gateway as gateway_module
from launcher.gateway.gateway import Gateway
from launcher.gateway.keys import add_key
from launcher.gateway.settings import Settings
from launcher.ports import free_ports
from tests.gateway.conftest import Site, eventually, has_nginx, write_certificate
from tests.gateway.recorder import Recorder

pytestmark = pytest.mark.gateway


class FakeServer(SimpleNamespace):
    """What a gateway asks of a server, with a recorder instead of TorchServe."""

    def __init__(self, folder: Path, recorder: Recorder) -> None:
        super().__init__(folder=folder, temporary=folder / "tmp", key_file=folder / "key_file.json")
        self.process: object | None = self
        self.worker = "READY"
        self.version = "1.0"
        self.said = ""
        self.temporary.mkdir()
        (folder / "logs").mkdir()
        self.addresses = {"inference": ("127.0.0.1", recorder.port)}
        self.grpc_target = f"127.0.0.1:{recorder.port}"
        self.write_key("first-key")

    def write_key(self, key: str) -> None:
        """Replace the inference key."""
        self.key_file.write_text(json.dumps({"inference": {"key": key, "expiration time": "2099-01-01T00:00:00Z"}}))

    def key(self) -> str:
        """The inference key."""
        return str(json.loads(self.key_file.read_text())["inference"]["key"])

    def describe(self, model: str) -> dict[str, Any]:
        """The model is there."""
        return {"modelVersion": self.version, "workers": [{"status": self.worker}]}

    def output_size(self) -> int:
        """Bytes that it has printed."""
        return len(self.said.encode())

    def load_failure(self, model: str, since: int) -> str | None:
        """The reason is all that it prints."""
        return self.said[since:] or None

    def models(self) -> list[str]:
        """It is the only one."""
        return ["demo"]


@dataclasses.dataclass
class Running:
    """A gateway that runs, as a site for requests and as the object that follows."""

    gateway: Gateway
    server: FakeServer
    site: Site

    def status(self, key: str) -> int:
        """Of a request with this key."""
        return self.site.ask("POST", "/predictions/demo", b"x", Authorization=f"Bearer {key}")[0]

    def sent_key(self) -> str:
        """Which key of TorchServe the gateway sends."""
        self.status(self.site.key)
        return self.site.recorder.seen[-1].headers["authorization"]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A gateway with one client."""
    with running_in(tmp_path) as running:
        yield running


@contextmanager
def running_in(tmp_path: Path) -> Iterator[Running]:
    """A gateway whose files are in a folder."""
    if not has_nginx():
        pytest.skip("nginx is not installed; `make test-gateway` installs it")
    recorder = Recorder()
    server: Any = FakeServer(tmp_path, recorder)
    keys = tmp_path / "keys"
    key = add_key(keys, "tests")
    http_port, grpc_port = free_ports(2)
    others: dict[str, Any] = {"requests_per_second": 1000, "burst": 1000, "drafts": None}
    settings = Settings(f"127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", keys=keys, **others)
    with Gateway(server, settings) as gateway:
        gateway.start()
        yield Running(gateway, server, Site(None, tmp_path, settings, key, recorder))  # type: ignore[arg-type]
    recorder.close()


def test_clients_come_and_go(running: Running) -> None:
    """An added key is accepted, a removed one refused; nothing happens without a change."""
    assert not running.gateway.follow()
    keys = running.gateway.settings.keys
    assert keys is not None
    second = add_key(keys, "second")
    assert running.status(second) == 401
    assert running.gateway.follow()
    assert eventually(lambda: running.status(second) == 200)
    keys.write_text("".join(line for line in keys.read_text().splitlines(True) if not line.startswith("second ")))
    assert running.gateway.follow()
    assert eventually(lambda: running.status(second) == 401)
    assert running.status(running.site.key) == 200
    assert not running.gateway.follow()


@pytest.mark.parametrize("text", ["include /etc/passwd;\n", "tests\n", None])
def test_broken_file_of_keys_changes_nothing(running: Running, text: str | None) -> None:
    """It is reported once; the keys of before hold, also when TorchServe's key changes and nginx reads all again."""
    keys = running.gateway.settings.keys
    assert keys is not None
    if text is None:
        keys.unlink()
    else:
        keys.write_text(text)
    with pytest.raises(LaunchError):
        running.gateway.follow()
    assert not running.gateway.follow()
    running.server.write_key("second-key")
    assert running.gateway.follow()
    assert eventually(lambda: running.sent_key() == "Bearer second-key")
    assert running.status(running.site.key) == 200


def test_key_of_torchserve_that_is_missing_is_waited_for(running: Running) -> None:
    """While TorchServe starts again, its file of keys is missing or half written."""
    running.server.key_file.write_text("{")
    assert not running.gateway.follow()
    running.server.key_file.unlink()
    assert not running.gateway.follow()
    running.server.write_key("second-key")
    assert running.gateway.follow()
    assert eventually(lambda: running.sent_key() == "Bearer second-key")


def test_renewed_certificate_is_shown(tmp_path: Path) -> None:
    """And one that does not fit its key is reported, while the old one is shown."""
    if not has_nginx():
        pytest.skip("nginx is not installed; `make test-gateway` installs it")
    recorder = Recorder()
    server: Any = FakeServer(tmp_path, recorder)
    tls = write_certificate(tmp_path)
    http_port, grpc_port = free_ports(2)
    settings = Settings(f"127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", tls=tls, drafts=None)
    with Gateway(server, settings) as gateway:
        gateway.start()
        before = ssl.get_server_certificate(("127.0.0.1", http_port))
        assert before.strip() == tls.certificate.read_text().strip()
        write_certificate(tmp_path)
        assert gateway.follow()
        assert eventually(lambda: ssl.get_server_certificate(("127.0.0.1", http_port)) != before)
        renewed = ssl.get_server_certificate(("127.0.0.1", http_port))
        assert renewed.strip() == tls.certificate.read_text().strip()
        other = tmp_path / "other"
        other.mkdir()
        tls.key.write_bytes(write_certificate(other).key.read_bytes())
        with pytest.raises(LaunchError, match="refuses its configuration"):
            gateway.follow()
        assert ssl.get_server_certificate(("127.0.0.1", http_port)) == renewed
    recorder.close()


def test_default_version_is_followed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The management API has switched it: the chat goes to the new one, and the door stays open."""
    monkeypatch.setattr(gateway_module, "HEALTH_S", 0)

    def chat() -> str:
        assert running.site.ask("POST", "/v1/chat/completions", b"{}")[0] == 200
        return running.site.recorder.seen[-1].target

    running.gateway.follow()
    assert chat() == "POST /predictions/demo/1.0/v1/chat/completions"
    running.server.version = "1.1"
    running.gateway.follow()
    assert eventually(lambda: chat() == "POST /predictions/demo/1.1/v1/chat/completions")


def test_access_log_is_closed_to_others(running: Running) -> None:
    """Clients' names and times are nobody else's business."""
    assert running.status(running.site.key) == 200
    assert running.gateway.log.stat().st_mode & 0o077 == 0
