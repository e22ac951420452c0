"""TorchServe stopped and started under load: open requests are answered, new ones refused or sent to another host."""

import dataclasses
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from export.package import write_archive
from launcher.drain import drain
from launcher.environment import link_installation
from launcher.gateway.door import STARTING, STOPPING
from launcher.gateway.gateway import Gateway
from launcher.gateway.nginx import Nginx
from launcher.gateway.settings import Settings
from launcher.local_server import LocalServer
from launcher.ports import free_ports
from launcher.process import exclusive
from launcher.server import Server
from loadtests.site import following
from prelim_client.readiness import wait_until_ready
from tests.gateway.conftest import LONG_DECODER, eventually
from tests.tiny_model import CONFIG, png, write_tiny_model

pytestmark = [pytest.mark.gateway, pytest.mark.server]

BALANCER = """
daemon off; pid "{folder}/nginx.pid"; error_log stderr emerg; events {{ }}
http {{
    access_log off; client_body_temp_path "{folder}/body"; proxy_temp_path "{folder}/proxy";
    fastcgi_temp_path "{folder}/f"; uwsgi_temp_path "{folder}/u"; scgi_temp_path "{folder}/s";
    upstream hosts {{ server {hosts[0]} max_fails=0; server {hosts[1]} max_fails=0; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://hosts;
            proxy_set_header Host 127.0.0.1;
            # docs/gateway.md recommends this.
            proxy_next_upstream error timeout http_503 non_idempotent;
        }}
    }}
}}
"""


def ask(url: str, key: str, seed: int) -> str:
    """What a client without retries is told: "report", or the code and type of the error."""
    fields = {"image": ("image", png(seed)), "max_new_tokens": (None, "200"), "min_new_tokens": (None, "200")}
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {key}"}
        response = session.post(f"{url}/predictions/{CONFIG.name}", files=fields, headers=headers, timeout=120)
    contents: dict[str, Any] = response.json()
    return "report" if "report" in contents else f"{response.status_code} {contents['error']['type']}"


@contextmanager
def load(url: str, key: str, users: int) -> Iterator[Counter[str]]:
    """Users who ask without pause; yields what they have been told."""
    told: Counter[str] = Counter()
    done, lock = threading.Event(), threading.Lock()

    def use(seed: int) -> None:
        while not done.is_set():
            answer = ask(url, key, seed)
            with lock:
                told[answer] += 1

    with ThreadPoolExecutor(users) as pool:
        asking = [pool.submit(use, seed) for seed in range(users)]
        try:
            yield told
        finally:
            done.set()
        for user in asking:
            user.result()


def test_drain_under_load_breaks_nothing_off(server: LocalServer, gateway: Gateway, key: tuple[Path, str]) -> None:
    """Every request has its report or is refused with the reason, and TorchServe has nothing in hand at the end."""
    with load(gateway.url, key[1], 8) as told:
        assert eventually(lambda: told["report"] > 20)
        with exclusive(server.temporary):
            assert drain(server, 60) == 0
            assert server.connections() == 0
            assert eventually(lambda: told[f"503 {STOPPING[0]}"] > 0)
            reports = told["report"]
            gateway.follow()
            assert gateway.door.closed == STOPPING[0]
        # As the launcher has it after a start.
        gateway.door.close(*STARTING)
        gateway.follow()
        assert eventually(lambda: told["report"] > reports + 20)
    assert set(told) <= {"report", f"503 {STOPPING[0]}", f"503 {STARTING[0]}"}


@pytest.fixture
def hosts(store: Path, key: tuple[Path, str]) -> Iterator[list[Gateway]]:
    """Two servers, each with a gateway."""
    with ExitStack() as stack:
        gateways = []
        for _ in range(2):
            server = stack.enter_context(LocalServer(store))
            server.wait_until_ready(CONFIG.name)
            http_port, grpc_port = free_ports(2)
            others: dict[str, Any] = {"requests_per_second": 1000, "burst": 1000, "open_requests": 64, "drafts": None}
            settings = Settings(
                f"127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", keys=key[0], model=CONFIG.name, **others
            )
            gateways.append(stack.enter_context(Gateway(server, settings)))
            gateways[-1].start()
        yield gateways


@pytest.fixture
def balancer(hosts: list[Gateway], tmp_path: Path) -> Iterator[str]:
    """The address of a load balancer in front of both."""
    (port,) = free_ports(1)
    config = tmp_path / "nginx.conf"
    addresses = [gateway.settings.listen for gateway in hosts]
    config.write_text(BALANCER.format(folder=tmp_path, hosts=addresses, port=port), encoding="utf-8")
    with Nginx(config):
        yield f"http://127.0.0.1:{port}"


def restart(gateway: Gateway, archives: list[str]) -> None:
    """What `launcher stop` and `launcher start` do."""
    server = gateway.server
    with exclusive(server.temporary):
        assert drain(server, 60) == 0
        Server.stop(server)
        server.start(archives)
        gateway.door.close(*STARTING)
        server.wait_until_ready(CONFIG.name)
    wait_until_ready(gateway.url, 60)


def roll(hosts: list[Gateway], balancer: str, key: str, archives: list[str], count: int) -> None:
    """Stop and start hosts in turn under load, and expect a report for every request."""
    with following(hosts), load(balancer, key, 6) as told:
        for number in range(count):
            before = told["report"]
            restart(hosts[number % 2], archives)
            assert eventually(lambda before=before: told["report"] > before + 5)
    print(f"{count} restarts: {dict(told)}")
    assert set(told) == {"report"}


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
def test_rolling_restarts_cost_no_request(
    hosts: list[Gateway], balancer: str, key: tuple[Path, str], store: Path
) -> None:
    """Two hosts behind a load balancer, stopped and started in turn, twenty times."""
    roll(hosts, balancer, key[1], [path.name for path in store.glob("*.mar")], 20)


@pytest.mark.exhaustive
def test_rolling_update_costs_no_request(
    hosts: list[Gateway], balancer: str, key: tuple[Path, str], tmp_path: Path
) -> None:
    """From version 1.0 to 1.1, one host after the other, under load."""
    model = write_tiny_model(tmp_path / CONFIG.name, dataclasses.replace(CONFIG, version="1.1", decoder=LONG_DECODER))
    archive = write_archive(model, tmp_path / "store", batching="in-flight", slots=4)
    with following(hosts), load(balancer, key[1], 6) as told:
        for gateway in hosts:
            assert gateway.server.describe(CONFIG.name)["modelVersion"] == "1.0"
            link_installation(gateway.server.folder, archive.parent)
            restart(gateway, [archive.name])
            before = told["report"]
            assert eventually(lambda before=before: told["report"] > before + 5)
    assert set(told) == {"report"}
    assert {gateway.server.describe(CONFIG.name)["modelVersion"] for gateway in hosts} == {"1.1"}
