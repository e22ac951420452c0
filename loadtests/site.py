"""A server as a hospital runs it, for load tests: TorchServe with a measured queue, and the gateway in front of it."""

import json
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from launcher.admission import Throughput, measure, queue_length
from launcher.gateway.gateway import Gateway
from launcher.gateway.keys import add_key
from launcher.local_server import LocalServer
from launcher.ports import free_ports
from launcher.server import Server
from loadtests.gateway_process import gateway_process
from loadtests.run import place
from terminal.program import sign_of_life

LOOK_S = 0.2
"""Seconds between two looks of the gateway at its server."""

UNLIMITED = 10_000
"""Requests of one client: all come from one here, and the limits are those of a client."""


@dataclass(frozen=True)
class Site:
    """What a load is sent to.

    gateway    : its process
    url        : the gateway's HTTP address
    grpc_target: its gRPC address
    throughput : of the server, as its launcher has measured it
    queue      : requests that it may have at a time
    """

    gateway: psutil.Process
    server: LocalServer
    url: str
    grpc_target: str
    key_file: Path
    throughput: Throughput
    queue: int


@contextmanager
def open_site(archive: Path) -> Iterator[Site]:
    """Serve an archive behind a gateway, on free ports of 127.0.0.1. Raises LaunchError."""
    model = archive.stem
    with tempfile.TemporaryDirectory() as temporary:
        store = Path(temporary, "store")
        store.mkdir()
        place(archive, store)
        with LocalServer(store) as server:
            with sign_of_life("starting and measuring the server"):
                server.wait_until_ready(model)
                throughput = measure(server, model)
                queue = queue_length([throughput], server.max_wait_s)
                Server.stop(server)
                server.start([archive.name], queue)
                server.wait_until_ready(model)
            keys = Path(temporary, "keys")
            entry = {"key": add_key(keys, "loadtests"), "expiration time": "2999-01-01T00:00:00+00:00"}
            key_file = Path(temporary, "key_file.json")
            key_file.write_text(json.dumps({"inference": entry}), encoding="utf-8")
            http_port, grpc_port = free_ports(2)
            settings = {
                "listen": f"127.0.0.1:{http_port}",
                "listen_grpc": f"127.0.0.1:{grpc_port}",
                "keys": str(keys),
                "model": model,
                **dict.fromkeys(("requests_per_second", "burst", "open_requests"), UNLIMITED),
                "drafts": None,
            }
            file = Path(temporary, "site.yaml")
            file.write_text(yaml.safe_dump(settings), encoding="utf-8")
            with gateway_process(server, file) as gateway:
                url, grpc_target = f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}"
                yield Site(gateway, server, url, grpc_target, key_file, throughput, queue)


@contextmanager
def following(gateways: Sequence[Gateway]) -> Iterator[None]:
    """Let gateways look after their doors and keys, as `python -m launcher.gateway serve` does."""
    done = threading.Event()

    def follow() -> None:
        while not done.wait(LOOK_S):
            for gateway in gateways:
                gateway.follow()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
