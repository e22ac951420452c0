"""nginx with the project's configuration, in front of a server that records what reaches it."""

import contextlib
import dataclasses
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from export.package import write_archive
from launcher.environment import ROOT
from launcher.gateway.config import write_folder
from launcher.gateway.gateway import Gateway
from launcher.gateway.keys import add_key
from launcher.gateway.nginx import Nginx
from launcher.gateway.settings import Settings, Tls
from launcher.gateway.upstream import Upstream, upstream_of_hosts
from launcher.local_server import LocalServer
from launcher.ports import free_ports
from tests.gateway.recorder import Recorder
from tests.tiny_model import CONFIG, write_tiny_model

TORCHSERVE_KEY = "server-key"
DRAFTS_TOKEN = "bridge-token"  # noqa: S105 - of tests

LONG_DECODER = {**CONFIG.decoder, "max_positions": 1030}
"""Of a tiny model that may write a thousand tokens."""


@dataclass
class Site:
    """One gateway: its address, a key for it, and its upstream."""

    nginx: Nginx
    folder: Path
    settings: Settings
    key: str
    recorder: Recorder

    @property
    def address(self) -> tuple[str, int]:
        """Host and port for HTTP."""
        host, _, port = self.settings.listen.rpartition(":")
        return host, int(port)

    @property
    def log(self) -> list[str]:
        """Lines of the access log."""
        return (self.folder / "access.log").read_text(encoding="utf-8").splitlines()

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers by lower-case name and parsed body of a request with the key."""
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        given = {"Authorization": f"Bearer {self.key}"} | {name.replace("_", "-"): v for name, v in headers.items()}
        try:
            connection.request(method, path, body, given)
            response = connection.getresponse()
            contents = response.read()
        finally:
            connection.close()
        named = {name.lower(): value for name, value in response.getheaders()}
        is_json = contents and "json" in named.get("content-type", "")
        return response.status, named, json.loads(contents) if is_json else contents

    def send(self, data: bytes, answers: int = 1) -> bytes:
        """All that comes back for raw bytes on one connection, whose end is sent after so many answers."""
        received = b""
        with socket.create_connection(self.address, timeout=20) as connection:
            connection.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                while len(re.findall(rb"HTTP/1\.1 [2-5]\d\d ", received)) < answers and (
                    more := connection.recv(65536)
                ):
                    received += more
                connection.shutdown(socket.SHUT_WR)
                while more := connection.recv(65536):
                    received += more
        return received


def has_nginx() -> bool:
    """Whether nginx is there; Debian has it where only root looks for programs."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") is not None


def open_site(
    folder: Path, recorder: Recorder, *, upstream_grpc: int | None = None, drafts: bool = True, **changes: Any
) -> Site:
    """Start a gateway with keys in front of a recorder, which is the bridge of `drafts` too; or of `hosts`.

    upstream_grpc : port of a gRPC server
    """
    if not has_nginx():
        pytest.skip("nginx is not installed; `make test-gateway` installs it")
    http_port, grpc_port = free_ports(2)
    keys = folder / "keys"
    key = add_key(keys, "tests")
    given = {"listen": f"127.0.0.1:{http_port}", "listen_grpc": f"127.0.0.1:{grpc_port}", "keys": keys}
    given |= {} if drafts else {"drafts": None}
    settings = Settings(**({"requests_per_second": 10_000, "burst": 1000} | given | changes))
    server, grpc = (f"127.0.0.1:{port}" for port in (recorder.port, upstream_grpc or recorder.port))
    bridge = (server, DRAFTS_TOKEN) if drafts else (None, "")
    if settings.hosts is not None:
        upstream, upstream_key = upstream_of_hosts(settings.hosts, *bridge), settings.hosts.key_file.read_text()
    else:
        upstream, upstream_key = Upstream([server], [grpc], "/predictions/demo/1.0", None, *bridge), TORCHSERVE_KEY
    samples = [{"file": "samples/chest.jpg", "title": "Chest"}]
    page = {"models": ["demo"], "needs_key": settings.keys is not None, "samples": samples}
    prefix = folder / "nginx"
    log = folder / "access.log"
    config = write_folder(prefix, settings, upstream, key=upstream_key, page=page, log=log)
    shutil.copy(ROOT / "docs" / "images" / "chest.jpg", prefix / "samples")
    return Site(Nginx(config), folder, settings, key, recorder)


def eventually(holds: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether it holds before the time after which it counts as hanging, on a loaded machine too."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def write_certificate(folder: Path) -> Tls:
    """A new certificate of 127.0.0.1 and reports.test that signs itself."""
    tls = Tls(folder / "certificate.pem", folder / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:reports.test", "-out", tls.certificate, "-keyout", tls.key]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return tls


@pytest.fixture(scope="session")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway with the usual limits but for the rate."""
    recorder = Recorder()
    site = open_site(tmp_path_factory.mktemp("a site"), recorder)
    with site.nginx:
        yield site
    recorder.close()


@pytest.fixture
def site(shared_site: Site) -> Site:
    """The shared gateway, whose server has seen nothing yet."""
    shared_site.recorder.seen.clear()
    return shared_site


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the archive of the tiny model, which here may write a thousand tokens."""
    config = dataclasses.replace(CONFIG, decoder=LONG_DECODER)
    model = write_tiny_model(tmp_path_factory.mktemp("models") / CONFIG.name, config)
    folder = tmp_path_factory.mktemp("store")
    write_archive(model, folder, batching="in-flight", slots=4)
    return folder


@pytest.fixture(scope="session")
def server(store: Path) -> Iterator[LocalServer]:
    """TorchServe with this archive."""
    with LocalServer(store) as server:
        server.wait_until_ready(CONFIG.name)
        yield server


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file of keys and the key in it."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    return file, add_key(file, "tests")


@pytest.fixture(scope="session")
def gateway(server: LocalServer, key: tuple[Path, str]) -> Iterator[Gateway]:
    """The gateway in front of TorchServe."""
    if not has_nginx():
        pytest.skip("nginx is not installed; `make test-gateway` installs it")
    http_port, grpc_port = free_ports(2)
    settings = Settings(
        listen=f"127.0.0.1:{http_port}",
        listen_grpc=f"127.0.0.1:{grpc_port}",
        keys=key[0],
        model=CONFIG.name,
        requests_per_second=1000,
        burst=1000,
        open_requests=64,
    )
    with Gateway(server, settings) as gateway:
        gateway.start()
        yield gateway
