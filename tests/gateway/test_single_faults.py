"""One fault at a time, and what the clients of the gateway see of it. The archive has the faults in its handler."""

import contextlib
import dataclasses
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from export.package import write_archive
from launcher.gateway.door import STOPPED
from launcher.gateway.gateway import Gateway
from launcher.gateway.settings import Settings
from launcher.local_server import LocalServer
from launcher.ports import free_ports
from launcher.process import has_ended
from launcher.server import Server
from loadtests.site import following
from prelim_client.grpc_client import GrpcClient
from prelim_client.http_client import HttpClient
from tests.gateway.conftest import LONG_DECODER, eventually, has_nginx
from tests.gateway.faulty_archive import STAGES, add_faults, ask_for
from tests.tiny_model import CONFIG, png, write_tiny_model

pytestmark = [pytest.mark.gateway, pytest.mark.server]

MODEL = CONFIG.name
SLOTS = 4
OPTIONS = {"max_new_tokens": 60, "min_new_tokens": 60}
START_S = 120
"""Seconds that a worker may take to start, on a machine that runs other tests."""

LONG = {"max_new_tokens": 1000, "min_new_tokens": 1000}


@pytest.fixture(scope="module")
def faulty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1.0 and 1.1 of the tiny model, which write the same reports; the first has faults."""
    store = tmp_path_factory.mktemp("faulty")
    for version in ("1.1", "1.0"):
        config = dataclasses.replace(CONFIG, version=version, decoder=LONG_DECODER)
        model = write_tiny_model(tmp_path_factory.mktemp("models") / MODEL, config)
        path = write_archive(model, store, batching="in-flight", slots=SLOTS)
        if version == "1.1":
            path.rename(store / f"{MODEL}-1.1.mar")
    add_faults(store / f"{MODEL}.mar")
    return store


@pytest.fixture(scope="module")
def faulty_server(faulty_store: Path) -> Iterator[LocalServer]:
    """TorchServe with both versions, 1.0 by default."""
    with LocalServer(faulty_store, other_code=True) as server:
        server.wait_until_ready(MODEL)
        server.manage("PUT", f"/models/{MODEL}/1.0/set-default").raise_for_status()
        server.wait_until_ready(MODEL)
        yield server


@pytest.fixture(scope="module")
def front(faulty_server: LocalServer, key: tuple[Path, str]) -> Iterator[Gateway]:
    """Its gateway, which looks after its door."""
    if not has_nginx():
        pytest.skip("nginx is not installed; `make test-gateway` installs it")
    http_port, grpc_port = free_ports(2)
    limits: dict[str, Any] = {"requests_per_second": 1000, "burst": 1000, "open_requests": 64, "drafts": None}
    settings = Settings(f"127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", keys=key[0], model=MODEL, **limits)
    with Gateway(faulty_server, settings) as gateway:
        gateway.start()
        with following([gateway]):
            yield gateway


def ask(gateway: Gateway, key: str, seed: int, **options: Any) -> tuple[int, Any]:
    """Status and body that a client without retries gets for an image."""
    answer = HttpClient(gateway.url, key, MODEL).post(png(seed), **(options or OPTIONS))
    return answer.status_code, answer.json()


def ask_together(gateway: Gateway, key: str, fault: str) -> list[tuple[int, Any]]:
    """Answers to as many requests as there are slots, of which one meets a fault."""
    with ThreadPoolExecutor(SLOTS) as users:
        ask_for(gateway.server, fault)
        return list(users.map(lambda seed: ask(gateway, key, seed), range(SLOTS)))


@pytest.fixture(scope="module")
def expected(front: Gateway, key: tuple[Path, str]) -> list[str]:
    """The reports without a fault."""
    return [ask(front, key[1], seed)[1]["report"] for seed in range(SLOTS)]


def worker_of(server: Server) -> int:
    """Process id of the worker that is ready; waits for it."""
    server.wait_until_ready(MODEL)
    (pid,) = (worker["pid"] for worker in server.workers(MODEL) if worker["status"] == "READY")
    return int(pid)


def unpacked(server: Server) -> set[Path]:
    """Archives that are unpacked in the server's temporary folder: each of the two once."""
    # Next to each lies the lock of its worker.
    found = {path for path in (server.temporary / "models").iterdir() if path.is_dir()}
    assert len(found) == len(list(server.store.glob("*.mar")))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_worker_killed_at_any_stage_is_not_seen(
    front: Gateway, key: tuple[Path, str], expected: list[str], stage: str
) -> None:
    """SIGKILL while it reads an image, reads the prefix, decodes, or has a report in its hands.

    The next worker needs no other copy of the archive.
    """
    worker, before = worker_of(front.server), unpacked(front.server)
    answers = ask_together(front, key[1], stage)
    assert [status for status, _ in answers] == [200] * SLOTS
    assert [answer["report"] for _, answer in answers] == expected
    assert worker_of(front.server) != worker
    assert unpacked(front.server) == before


def test_worker_killed_under_grpc_is_not_seen(front: Gateway, key: tuple[Path, str], expected: list[str]) -> None:
    """The client sends the request again."""
    worker = worker_of(front.server)
    with GrpcClient(front.settings.listen_grpc, key[1], MODEL) as client:
        ask_for(front.server, "decode")
        assert client.report(png(0), **OPTIONS)["report"] == expected[0]
    assert worker_of(front.server) != worker


@pytest.mark.parametrize(("fault", "kind"), [("memory", "InternalError"), ("nan", "NonFiniteOutput")])
def test_fault_in_one_request_is_its_own(
    front: Gateway, key: tuple[Path, str], expected: list[str], fault: str, kind: str
) -> None:
    """500 for it, which is final; its neighbors have their reports, and the worker lives."""
    worker = worker_of(front.server)
    answers = ask_together(front, key[1], fault)
    assert sorted(status for status, _ in answers) == [200] * (SLOTS - 1) + [500]
    for (status, answer), report in zip(answers, expected, strict=True):
        assert answer["error"]["type"] == kind if status == 500 else answer["report"] == report
    assert worker_of(front.server) == worker
    assert ask(front, key[1], 0)[1]["report"] == expected[0]


def test_clients_gone_at_every_stage_leave_their_slots(
    front: Gateway, key: tuple[Path, str], expected: list[str]
) -> None:
    """In the upload, in the queue, while decoding: what follows is answered as always.

    TorchServe looks at a connection only when it has something to write on it: a slot is free after a heartbeat.
    """
    host, _, port = front.settings.listen.rpartition(":")
    form = requests.Request(
        "POST",
        f"{front.url}/predictions/{MODEL}",
        headers={"Authorization": f"Bearer {key[1]}"},
        files={"image": ("image", png(7))} | {name: (None, f"{value}") for name, value in LONG.items()},
    ).prepare()
    head = f"POST /predictions/{MODEL} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in form.headers.items()) + "\r\n"
    assert isinstance(form.body, bytes)
    with contextlib.ExitStack() as clients:
        connections = [clients.enter_context(socket.create_connection((host, int(port)))) for _ in range(2 * SLOTS + 1)]
        for connection in connections[1:]:
            connection.sendall(head.encode() + form.body)
        connections[0].sendall(head.encode() + form.body[:100])
        assert eventually(lambda: active_requests(front.server) == SLOTS)
    worker = worker_of(front.server)
    assert ask(front, key[1], 0)[1]["report"] == expected[0]
    assert worker_of(front.server) == worker


def active_requests(server: Server) -> float:
    """The last value of the gauge of version 1.0 and 1.1 together."""
    lines = [line for line in server.metrics().splitlines() if line.startswith("prelim_active_requests{")]
    return sum(float(line.split()[-1]) for line in lines)


def test_second_worker_changes_nothing(front: Gateway, key: tuple[Path, str], expected: list[str]) -> None:
    """PUT /models asks for two: the second does not load the model, and no request hangs."""
    worker = worker_of(front.server)
    path = f"/models/{MODEL}/1.0?min_worker={{}}&max_worker={{}}"
    front.server.manage("PUT", path.format(2, 2)).raise_for_status()
    try:
        assert eventually(lambda: "another worker serves this model" in front.server.output(), START_S)
        with ThreadPoolExecutor(SLOTS) as users:
            answers = list(users.map(lambda number: ask(front, key[1], number % SLOTS), range(20)))
        assert [answer["report"] for _, answer in answers] == 5 * expected
    finally:
        front.server.manage("PUT", path.format(1, 1)).raise_for_status()
    assert worker_of(front.server) == worker


def test_default_version_is_switched_without_a_lost_request(
    front: Gateway, key: tuple[Path, str], expected: list[str]
) -> None:
    """And back, under load; each version keeps its own path, and the chat follows."""
    server = front.server
    answers: list[tuple[int, Any]] = []
    done: list[bool] = []

    def use(seed: int) -> None:
        while not done:
            answers.append(ask(front, key[1], seed))

    def version() -> str:
        return str(ask(front, key[1], 0)[1]["model"]["version"])

    def chat() -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            headers = {"Authorization": f"Bearer {key[1]}"}
            return session.get(f"{front.url}/v1/models", headers=headers, timeout=60)

    with ThreadPoolExecutor(SLOTS) as users:
        using = [users.submit(use, seed) for seed in range(SLOTS)]
        try:
            for name in ("1.1", "1.0", "1.1", "1.0"):
                server.manage("PUT", f"/models/{MODEL}/{name}/set-default").raise_for_status()
                assert version() == name
                assert eventually(lambda name=name: f"/predictions/{MODEL}/{name}/v1" in nginx_of(front))
                assert chat().status_code == 200
        finally:
            done.append(True)
        for each in using:
            each.result()
    assert {status for status, _ in answers} == {200}
    versions = Counter(answer["model"]["version"] for _, answer in answers)
    assert set(versions) == {"1.0", "1.1"}
    assert {answer["report"] for _, answer in answers} == set(expected)
    for name in versions:
        answer = HttpClient(f"{front.url}", key[1], f"{MODEL}/{name}").report(png(0))
        assert answer["model"]["version"] == name


def nginx_of(gateway: Gateway) -> str:
    """What nginx has read."""
    return (gateway.folder / "nginx.conf").read_text(encoding="utf-8")


def test_killed_frontend_is_started_again(
    front: Gateway, key: tuple[Path, str], expected: list[str], faulty_store: Path
) -> None:
    """SIGKILL of Java: requests in hand get 503 or 500, never a wrong report; the door closes; a start opens it.

    The workers end by themselves, and what was unpacked for them is removed.
    """
    server = front.server
    process, before = server.process, unpacked(front.server)
    assert process is not None
    workers = [
        child for child in process.children(recursive=True) if "model_service_worker" in " ".join(child.cmdline())
    ]
    assert workers
    with ThreadPoolExecutor(SLOTS) as users:
        asking = [users.submit(ask, front, key[1], seed, **LONG) for seed in range(SLOTS)]
        assert eventually(lambda: active_requests(server) == SLOTS)
        os.kill(process.pid, signal.SIGKILL)
        statuses = {one.result()[0] for one in asking}
    assert statuses <= {500, 503}
    assert eventually(lambda: front.door.closed == STOPPED[0])
    status, answer = ask(front, key[1], 0)
    assert (status, answer["error"]["type"]) == (503, STOPPED[0])
    assert eventually(lambda: all(has_ended(worker) for worker in workers))
    Server.stop(server)
    server.start([path.name for path in sorted(faulty_store.glob("*.mar"))])
    server.wait_until_ready(MODEL)
    assert unpacked(server).isdisjoint(before)
    server.manage("PUT", f"/models/{MODEL}/1.0/set-default").raise_for_status()
    assert eventually(lambda: front.door.closed is None, START_S)
    assert eventually(lambda: ask(front, key[1], 0)[1].get("report") == expected[0])
