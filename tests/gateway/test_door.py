"""The door of the gateway: closed before TorchServe stops, opened when it can serve."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from launcher.drain import drain
from launcher.errors import LaunchError
from launcher.gateway import gateway as gateway_module
from launcher.gateway import metrics
from launcher.gateway.door import STARTING, STOPPED, STOPPING, Door
from launcher.gateway.gateway import Gateway
from launcher.gateway.nginx import PARENT, PID, open_requests, requests_in_hand
from launcher.process import exclusive, has_ended
from prelim_client.answers import ReportError
from prelim_client.readiness import wait_until_ready
from tests.gateway.conftest import eventually
from tests.gateway.test_follow import Running, running  # noqa: F401 - a fixture

pytestmark = pytest.mark.gateway


def test_closed_door_refuses_everything_and_says_why(running: Running) -> None:  # noqa: F811
    """503 with Retry-After and the reason, also for readiness; nothing reaches TorchServe."""
    site = running.site
    running.gateway.door.close(*STOPPING)
    site.recorder.seen.clear()
    for method, path in (
        ("POST", "/predictions/demo"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/ready"),
    ):
        status, headers, contents = site.ask(method, path, b"x" if method == "POST" else None)
        assert (status, headers["retry-after"]) == (503, "5")
        named = {"message": STOPPING[1], "request_id": headers["x-request-id"]}
        if path.startswith("/v1"):
            named |= {"type": "server_error", "param": None, "code": STOPPING[0]}
        else:
            named |= {"code": 503, "type": STOPPING[0]}
        assert contents["error"] == named
    assert site.recorder.seen == []
    assert site.ask("GET", "/config.json")[0] == 200


def test_gateway_does_not_open_what_the_launcher_closes(running: Running) -> None:  # noqa: F811
    """While TorchServe stops, its worker is still ready; a launcher that was killed meanwhile stops nothing."""
    with exclusive(running.server.temporary):
        running.gateway.door.close(*STOPPING)
        running.gateway.follow()
        assert running.status(running.site.key) == 503
    running.gateway.follow()
    assert running.status(running.site.key) == 200


def test_door_follows_the_server(running: Running) -> None:  # noqa: F811
    """Closed when TorchServe is gone, closed while a new one loads, open when that is ready and its key is known."""
    gateway, server, site = running.gateway, running.server, running.site
    server.process = None
    gateway.follow()
    assert site.ask("GET", "/ready")[2]["error"]["type"] == STOPPED[0]
    server.process, server.worker = server, "UNLOADED"
    server.write_key("second-key")
    gateway.door.close(*STARTING)
    gateway.follow()
    assert running.status(site.key) == 503
    server.worker = "READY"
    gateway.follow()
    assert running.status(site.key) == 200
    assert eventually(lambda: running.sent_key() == "Bearer second-key")


def test_key_that_nginx_has_not_read_keeps_the_door_closed(running: Running) -> None:  # noqa: F811
    """A request with the key of before would be refused as one with a wrong key."""
    running.gateway.door.close(*STARTING)
    running.server.write_key("second-key")
    assert running.gateway.follow()
    assert running.status(running.site.key) == 503
    running.gateway.follow()
    assert running.status(running.site.key) == 200


def test_failed_load_is_told_at_once(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The client's `wait_until_ready` has the reason, and does not wait for a server that will not come."""
    monkeypatch.setattr(gateway_module, "HEALTH_S", 0)
    wait_until_ready(running.gateway.url, 0)
    running.server.worker = "UNLOADED"
    running.server.said = "demo cannot be loaded: decoder.safetensors has sha256 a"
    running.gateway.follow()
    with pytest.raises(ReportError, match=r"LoadFailed: demo cannot be loaded: decoder\.safetensors has sha256 a"):
        wait_until_ready(running.gateway.url, 600)
    running.server.worker = "READY"
    running.gateway.follow()
    wait_until_ready(running.gateway.url, 0)


def test_worker_that_does_not_come_back_closes_the_door(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """One that does is waited for, with the door open."""
    monkeypatch.setattr(gateway_module, "HEALTH_S", 0)
    running.server.worker = "STOPPED"
    running.gateway.follow()
    assert running.status(running.site.key) == 200
    monkeypatch.setattr(gateway_module, "RESTART_S", 0)
    running.gateway.follow()
    assert running.site.ask("GET", "/ready")[2]["error"]["type"] == "NoWorker"


@contextmanager
def half_sent(running: Running) -> Iterator[socket.socket]:  # noqa: F811
    """The connection of an upload of two bytes, of which one has been sent; nothing else is in hand."""
    running.server.drain = lambda seconds: 0
    head = f"POST /predictions/demo HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {running.site.key}\r\n"
    with socket.create_connection(running.site.address, timeout=20) as slow:
        slow.sendall(f"{head}Content-Length: 2\r\nConnection: close\r\n\r\nx".encode())
        assert eventually(lambda: requests_in_hand(running.gateway.folder) == 1)
        yield slow


def test_drain_waits_for_what_is_in_hand(running: Running) -> None:  # noqa: F811
    """An upload that has begun is finished and answered; what comes after the door has been closed is refused."""
    site, server = running.site, running.server
    with half_sent(running) as slow:
        left: list[int] = []
        draining = threading.Thread(target=lambda: left.append(drain(server, 20)))
        draining.start()
        assert eventually(lambda: Door(server.temporary).closed == STOPPING[0])
        assert running.status(site.key) == 503
        assert draining.is_alive()
        slow.sendall(b"y")
        assert slow.recv(65536).startswith(b"HTTP/1.1 200")
    draining.join(20)
    assert left == [0]
    assert requests_in_hand(running.gateway.folder) == 0


def test_open_requests_are_counted_once(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """While they arrive and while the server works on them; a stop waits for the same ones."""
    monkeypatch.setattr(metrics, "INTERVAL_S", 0)
    held: list[socket.socket] = []
    monkeypatch.setattr(running.site.recorder, "_serve", held.append)

    def counted() -> tuple[int | None, int]:
        return requests_in_hand(running.gateway.folder), open_requests(running.gateway.folder)

    with half_sent(running) as slow:
        assert counted() == (1, 1)
        slow.sendall(b"y")
        # The outer and the inner server have it.
        assert eventually(lambda: held and counted() == (2, 1))
        running.gateway.follow()
        page = running.site.ask("GET", "/metrics/gateway")[2].decode()
        assert "\nprelim_gateway_open_requests 1\n" in page
        held[0].close()
    assert eventually(lambda: counted() == (0, 0))


def test_drain_has_a_limit(running: Running) -> None:  # noqa: F811
    """It says how many requests are cut off."""
    with half_sent(running):
        assert drain(running.server, 0.5) == 1


def test_door_without_a_gateway(tmp_path: Path) -> None:
    """The launcher closes nothing where there has never been a gateway, and nothing is in hand there."""
    door = Door(tmp_path)
    door.close(*STOPPING)
    assert (door.closed, list(tmp_path.iterdir()), requests_in_hand(door.folder)) == (None, [], None)
    door.open()


def test_gateway_that_was_killed_leaves_nothing_in_the_way(running: Running) -> None:  # noqa: F811
    """Another one starts after it, on the same sockets; while one runs, a second is refused and disturbs nothing."""
    site = running.site
    second = Gateway(running.server, running.gateway.settings)
    with pytest.raises(LaunchError, match="runs already"):
        second.start()
    assert running.status(site.key) == 200
    nginx = psutil.Process(int((running.gateway.folder / PID).read_text()))
    family = [nginx, *nginx.children()]
    for process in family:
        process.kill()
    assert eventually(lambda: requests_in_hand(running.gateway.folder) is None)
    with second:
        second.start()
        assert running.status(site.key) == 200


def test_nginx_whose_first_process_was_killed_is_ended(running: Running) -> None:  # noqa: F811
    """The others would answer for ever, and keep the next gateway from its sockets: with the gateway they end."""
    first = running.gateway
    nginx = psutil.Process(int((first.folder / PID).read_text()))
    workers = nginx.children()
    nginx.kill()
    assert eventually(lambda: not first.is_alive())
    assert not any(has_ended(worker) for worker in workers)
    with Gateway(running.server, running.gateway.settings) as second:
        second.start()
        assert eventually(lambda: all(has_ended(worker) for worker in workers))
        nginx = psutil.Process(int((first.folder / PID).read_text()))
        workers = nginx.children()
        nginx.kill()
        assert eventually(lambda: not second.is_alive())
    assert workers
    assert all(has_ended(worker) for worker in workers)


def test_nginx_of_a_gateway_that_was_killed_is_ended(running: Running) -> None:  # noqa: F811
    """It lives on without anyone who opens its door or renews its key, so another gateway takes its place."""
    parent, pid = (running.gateway.folder / name for name in (PARENT, PID))
    nginx = psutil.Process(int(pid.read_text()))
    assert int(parent.read_text()) == os.getpid() == nginx.ppid()
    parent.write_text(f"{os.getpid() + 1}")
    with Gateway(running.server, running.gateway.settings) as second:
        second.start()
        assert running.status(running.site.key) == 200
        assert int(pid.read_text()) != nginx.pid
        assert has_ended(nginx)
