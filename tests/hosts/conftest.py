"""Two serving hosts, a gateway in front of them and a client, on one machine."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.environment import ROOT
from launcher.gateway.keys import add_key
from tests.gateway.conftest import has_nginx, write_certificate
from tests.hosts.network import Host, Network, is_possible
from tests.tiny_model import png

NAME = "reports.test"

DEAD_PEERS = {"tcp_keepalive_time": 2, "tcp_keepalive_intvl": 1, "tcp_keepalive_probes": 3, "tcp_retries2": 4}
"""Of the kernel of the front host: it notices within seconds that a host is gone (docs/gateway.md)."""


@dataclass
class Farm:
    """Hosts that run; start a load with `load`."""

    folder: Path
    front: Host
    serving: list[Host]
    client: Host
    key: str
    model: str

    def load(
        self, users: int, seconds: float, options: Mapping[str, Any], front: str = "", ways: str = "http"
    ) -> "subprocess.Popen[str]":
        """Users on the client's host; the lines that it prints are `outcomes`.

        front : address of the gateway that they use; the front host's if empty
        ways  : "http", "grpc", or both in turn, "http,grpc"
        """
        address = front or self.front.address
        image = self.folder / "image.png"
        image.write_bytes(png(1))
        given = (address, NAME, self.folder / "certificate.pem", self.key, self.model, image, users, seconds, ways)
        command = [sys.executable, "-m", "tests.hosts.client_host", *map(str, given), json.dumps(dict(options))]
        return self.client.start(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def answered(self, number: int) -> int:
        """Requests that a serving host has answered."""
        return len(self.lines(f"serving{number}"))

    def lines(self, host: str, log: str = "gateway.log") -> list[dict[str, Any]]:
        """A log of "front", "serving0" or "serving1"."""
        folder = Path((self.folder / host / "ready").read_text(encoding="utf-8")).parent
        return [json.loads(line) for line in (folder / log).read_text(encoding="utf-8").splitlines()]

    def passed_on(self, since: float) -> int:
        """Requests begun after a time that were sent a second time, by the front host's access log."""
        return sum(
            any(then in line["server_codes"] for then in (", ", " : ")) and _begin_of(line) >= since
            for line in self.lines("front")
        )

    def decoded(self) -> Counter[str]:
        """How often workers have begun each request, on both hosts together, by its id: answered, or given up."""
        lines = [line for number in range(2) for line in self.lines(f"serving{number}", "server.log")]
        return Counter(line["request"] for line in lines if line.get("event") in ("answer", "client_gone"))

    def update(self, number: int, store: Path, seconds: float = 300) -> str:
        """Let a serving host finish its requests and start with another store; returns the version of its model."""
        folder = self.folder / f"serving{number}"
        (folder / "updated").unlink(missing_ok=True)
        (folder / "new").write_text(str(store), encoding="utf-8")
        (folder / "new").rename(folder / "update")
        deadline = time.monotonic() + seconds
        while not (folder / "updated").is_file():
            said = (folder / "log").read_text(encoding="utf-8", errors="replace")
            assert self.serving[number].processes[0].poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
        return (folder / "updated").read_text(encoding="utf-8")


def outcomes(load: "subprocess.Popen[str]") -> list[dict[str, Any]]:
    """What became of every request of a load, when it has ended."""
    printed, _ = load.communicate(timeout=600)
    return sorted((json.loads(line) for line in printed.splitlines()), key=lambda one: one["begin"])


def _begin_of(line: dict[str, Any]) -> float:
    """When a logged request began: the log has its end, in whole seconds, and how long it took."""
    return datetime.fromisoformat(line["time"]).timestamp() - float(line["seconds"])


class FarmBuilder:
    """Starts farms in a network."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder

    def build(self, store: Path, model: str, *, pinned: bool = False) -> Farm:
        """Two serving hosts with the archives of a store, a front host and a client.

        pinned : each serving host has one processor of its own
        """
        tls, key = write_certificate(self.folder), add_key(self.folder / "keys", "front")
        (self.folder / "hosts.key").write_text(key, encoding="utf-8")
        site = {
            "names": [NAME],
            "tls": {"certificate": str(tls.certificate), "key": str(tls.key)},
            "keys": str(self.folder / "keys"),
            "model": model,
            "requests_per_second": 10_000,
            "burst": 10_000,
            "open_requests": 1000,
            "drafts": None,
        }
        serving = []
        for number in range(2):
            host = self.network.add_host(f"serving{number}")
            pin = ["taskset", "-c", str(sorted(os.sched_getaffinity(0))[number])] if pinned else []
            self._start(host, f"serving{number}", site, pin, [str(store), model])
            serving.append(host)
        front = self.network.add_host("front")
        for name, value in DEAD_PEERS.items():
            front.run("sysctl", "-qw", f"net.ipv4.{name}={value}")
        hosts = {
            "addresses": [host.address for host in serving],
            "name": NAME,
            "ca": str(tls.certificate),
            "key_file": str(self.folder / "hosts.key"),
        }
        self._start(front, "front", site | {"hosts": hosts}, [], [])
        farm = Farm(self.folder, front, serving, self.network.add_host("client"), key, model)
        for name, host in (("serving0", serving[0]), ("serving1", serving[1]), ("front", front)):
            self._wait(name, host)
        return farm

    def _start(self, host: Host, name: str, site: Mapping[str, Any], pin: list[str], served: list[str]) -> None:
        folder = self.folder / name
        folder.mkdir()
        settings = {**site, "listen": f"{host.address}:8088", "listen_grpc": f"{host.address}:8089"}
        (folder / "site.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
        given = [str(folder / "site.yaml"), str(folder), *served]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (folder / "log").open("wb") as log:
            host.start(
                [*pin, sys.executable, "-m", "tests.hosts.gateway_host", *given],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def _wait(self, name: str, host: Host, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not (self.folder / name / "ready").is_file():
            said = (self.folder / name / "log").read_text(encoding="utf-8", errors="replace")
            assert host.processes[0].poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.2)


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """A switch without hosts."""
    if not is_possible():
        pytest.skip("network namespaces need root")
    with Network() as network:
        yield network


@pytest.fixture(scope="session")
def farm(network: Network, tiny_mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Farm:
    """Two hosts that serve the tiny model."""
    if not has_nginx():
        pytest.skip("nginx is not installed; `make test-gateway` installs it")
    return FarmBuilder(network, tmp_path_factory.mktemp("farm")).build(tiny_mar.parent, "tiny")
