"""A gateway of gateways: two serving hosts, of which one may be gone, not ready or somebody else's."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from launcher.gateway.door import CLOSED, STOPPING
from launcher.gateway.errors import write_error
from launcher.gateway.gateway import Gateway
from launcher.gateway.keys import add_key
from launcher.gateway.settings import Hosts, Settings
from launcher.ports import free_ports
from tests.gateway.conftest import TORCHSERVE_KEY, Site, eventually, open_site, write_certificate
from tests.gateway.recorder import Recorder
from tests.gateway.test_follow import FakeServer
from tests.gateway.test_grpc import Called, call, called, refused  # noqa: F401 - a fixture
from tests.gateway.test_limits import answer, of_handler
from tests.gateway.test_retry import KILLED, REPORT, WORKER

pytestmark = pytest.mark.gateway

ADDRESSES = ("127.0.0.2", "127.0.0.3")
NAME = "reports.test"
COUNT = 6


@dataclass
class Farm:
    """Two serving hosts, and what a gateway in front of them has to know."""

    hosts: list[Site]
    known: Hosts
    folder: Path

    @property
    def seen(self) -> list[int]:
        """Requests that each host's server has had."""
        return [len(host.recorder.seen) for host in self.hosts]

    def front(self, **changes: Any) -> Site:
        """A gateway in front of the hosts, to be stopped."""
        self.folder.joinpath("front").mkdir()
        known = dataclasses.replace(self.known, **changes)
        return open_site(self.folder / "front", self.hosts[0].recorder, drafts=False, hosts=known)


def open_farm(folder: Path, upstream_grpc: int | None = None) -> Farm:
    """Hosts with one certificate and one key."""
    tls, keys, key_file = write_certificate(folder), folder / "keys", folder / "hosts.key"
    key_file.write_text(add_key(keys, "front"))
    port, grpc_port = free_ports(2)
    hosts = []
    for address in ADDRESSES:
        (folder / address).mkdir()
        listen = {"listen": f"{address}:{port}", "listen_grpc": f"{address}:{grpc_port}"}
        others = {"names": (NAME,), "tls": tls, "keys": keys}
        hosts.append(open_site(folder / address, Recorder(), upstream_grpc=upstream_grpc, **listen, **others))
    return Farm(hosts, Hosts(ADDRESSES, NAME, tls.certificate, key_file, port, grpc_port), folder)


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    """Two hosts that answer."""
    farm = open_farm(tmp_path)
    yield farm
    for host in farm.hosts:
        host.nginx.stop()
        host.recorder.close()


def test_both_hosts_answer(farm: Farm) -> None:
    """Each gets its share, with TorchServe's key, and the path that TorchServe has."""
    with (front := farm.front()).nginx:
        for _ in range(COUNT):
            assert front.ask("POST", "/predictions/demo", b"image")[0] == 200
        assert front.ask("POST", "/v1/chat/completions", b"{}")[0] == 200
        assert front.ask("GET", "/v1/models")[0] == 200
        assert front.ask("GET", "/ready")[0] == 200
    seen = [one for host in farm.hosts for one in host.recorder.seen]
    assert min(farm.seen) >= COUNT // 2
    assert {one.headers["authorization"] for one in seen} == {f"Bearer {TORCHSERVE_KEY}"}
    assert sum(one.body == b"image" for one in seen) == COUNT
    assert {one.target for one in seen} >= {
        "POST /predictions/demo",
        "POST /predictions/demo/1.0/v1/chat/completions",
        "GET /predictions/demo/1.0/v1/models",
    }


def test_lost_host_loses_nothing(farm: Farm) -> None:
    """What it would have got goes to the other one."""
    with (front := farm.front()).nginx:
        farm.hosts[0].nginx.stop()
        assert [front.ask("POST", "/predictions/demo", b"x")[0] for _ in range(COUNT)] == COUNT * [200]
    assert farm.seen == [0, COUNT]


def test_host_that_is_not_ready_is_passed_over(farm: Farm) -> None:
    """One that answers 503 has not begun the request, and gets no other for a while."""
    farm.hosts[0].recorder.answer = answer(503, b"{}")
    with (front := farm.front()).nginx:
        assert [front.ask("POST", "/predictions/demo", b"x")[0] for _ in range(COUNT)] == COUNT * [200]
    assert farm.seen == [1, COUNT]


def test_refusals_of_a_host_pass(farm: Farm) -> None:
    """A wrong request is wrong everywhere: it is asked once, with the same id."""
    with (front := farm.front()).nginx:
        for code in (400, 413, 422, 500, 504):
            for host in farm.hosts:
                host.recorder.seen.clear()
                host.recorder.answer = of_handler(code, "Kind")
            status, headers, body = front.ask("POST", "/predictions/demo", b"x")
            assert (status, body["error"]["type"]) == (code, "Kind")
            (seen,) = [one for host in farm.hosts for one in host.recorder.seen]
            assert seen.headers["x-request-id"] == headers["x-request-id"]


@pytest.mark.parametrize("death", [WORKER, KILLED, b""], ids=["worker", "killed", "TorchServe"])
def test_gateway_in_front_is_the_only_one_that_sends_again(farm: Farm, death: bytes) -> None:
    """One death is not seen, two are an error, however many hosts there are; so too where only one is left."""
    with (front := farm.front()).nginx:
        farm.hosts[0].recorder.turns.append(death)
        status, headers, _ = front.ask("POST", "/predictions/demo", b"x")
        assert (status, headers["x-prelim-attempt"], sum(farm.seen)) == (200, "2", 2)
        for host in farm.hosts:
            host.recorder.seen.clear()
            host.recorder.answer = death
        status, _, body = front.ask("POST", "/predictions/demo", b"x")
        assert (status, body["error"]["type"], sum(farm.seen)) == (500, "InternalError", 2)
        farm.hosts[1].nginx.stop()
        farm.hosts[0].recorder.answer = REPORT
        farm.hosts[0].recorder.turns.append(death)
        assert front.ask("POST", "/predictions/demo", b"x")[0] == 200


def test_refusal_is_no_attempt(farm: Farm) -> None:
    """A request that one host has refused, and that kills a worker of the other, is sent once more."""
    farm.hosts[0].recorder.turns.append(answer(503, b"{}"))
    farm.hosts[1].recorder.turns.append(KILLED)
    with (front := farm.front()).nginx:
        assert front.ask("POST", "/predictions/demo", b"x")[0] == 200
    assert sum(farm.seen) == 3


def test_without_hosts_there_is_an_error_to_wait_for(farm: Farm) -> None:
    """503 with Retry-After, in the shape of every error."""
    for host in farm.hosts:
        host.nginx.stop()
    with (front := farm.front()).nginx:
        status, headers, body = front.ask("POST", "/predictions/demo", b"x")
    assert (status, body["error"]["type"], "retry-after" in headers) == (503, "Overloaded", True)


@pytest.mark.parametrize("changes", [{"name": "other.test"}, {"ca": "other"}], ids=["name", "CA"])
def test_strangers_get_no_image(farm: Farm, changes: dict[str, Any], tmp_path: Path) -> None:
    """A host with a certificate for another name, or from another authority, is not asked."""
    if "ca" in changes:
        (tmp_path / "other").mkdir()
        changes = {"ca": write_certificate(tmp_path / "other").certificate}
    with (front := farm.front(**changes)).nginx:
        assert front.ask("POST", "/predictions/demo", b"x")[0] == 503
    assert farm.seen == [0, 0]


def test_grpc_passes(called: Called, tmp_path: Path) -> None:  # noqa: F811
    """Both times encrypted, with TorchServe's key at the end."""
    farm = open_farm(tmp_path, upstream_grpc=called.port)  # type: ignore[attr-defined]
    with (front := farm.front()).nginx, farm.hosts[0].nginx, farm.hosts[1].nginx:
        assert call(front, b"request") == b"request"
    assert called.seen[-1][1]["authorization"] == f"Bearer {TORCHSERVE_KEY}"
    for host in farm.hosts:
        host.recorder.close()


def test_call_goes_to_the_other_host_where_a_door_is_closed(called: Called, tmp_path: Path) -> None:  # noqa: F811
    """Over gRPC as over HTTP; if both are closed, the client is told when to try again."""
    farm = open_farm(tmp_path, upstream_grpc=called.port)  # type: ignore[attr-defined]
    doors = [host.folder / "nginx" / "_errors" for host in farm.hosts]
    with (front := farm.front()).nginx, farm.hosts[0].nginx, farm.hosts[1].nginx:
        write_error(doors[0], CLOSED, 503, *STOPPING)
        assert [call(front, b"x") for _ in range(COUNT)] == COUNT * [b"x"]
        write_error(doors[1], CLOSED, 503, *STOPPING)
        code, _, metadata = refused(front)
        assert (code, metadata["grpc-retry-pushback-ms"]) == (grpc.StatusCode.UNAVAILABLE, "5000")
        assert len(called.seen) == COUNT
    for host in farm.hosts:
        host.recorder.close()


def test_gateway_starts_without_a_server_and_follows_the_key(farm: Farm, tmp_path: Path) -> None:
    """Hosts may start later; a new key of theirs is used without a restart."""
    folder = tmp_path / "gateway"
    folder.mkdir()
    server: Any = FakeServer(folder, farm.hosts[0].recorder)
    server.describe = lambda model: {}
    keys = tmp_path / "clients"
    key = add_key(keys, "tests")
    http_port, grpc_port = free_ports(2)
    addresses = (f"127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}")
    settings = Settings(*addresses, keys=keys, drafts=None, hosts=farm.known)
    right = farm.known.key_file.read_text()
    farm.known.key_file.write_text(f"front.{43 * 'A'}")
    with Gateway(server, settings) as gateway:
        gateway.start()
        site = Site(None, folder, settings, key, farm.hosts[0].recorder)  # type: ignore[arg-type]
        # Not 401: the client's own key is right.
        assert site.ask("POST", "/predictions/demo", b"x")[0] == 503
        assert not gateway.follow()
        farm.known.key_file.write_text(right)
        assert gateway.follow()
        assert eventually(lambda: site.ask("POST", "/predictions/demo", b"x")[0] == 200)
