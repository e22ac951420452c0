"""Workers are killed under load: every request gets one answer, the right one, and none is lost."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from launcher.gateway.gateway import Gateway
from launcher.local_server import LocalServer
from tests.gateway.storm import MODEL, Offline, Storm

pytestmark = [pytest.mark.gateway, pytest.mark.server]


PARTS = 5
"""Of the 10,000 requests: each has a time limit of its own."""


def rage(storm: Storm, offline: Offline, count: int, kills: int, seed: int = 0) -> None:
    """Send `count` requests while `kills` workers are killed, and compare every answer with the offline one."""
    server, gateway = storm.server, storm.gateway
    before = {worker["pid"] for worker in server.workers(MODEL)}
    begun, sent = time.monotonic(), gateway.log.stat().st_size
    plan = storm.rage(count, kills, seed=count + seed)

    wrong = {
        (way, image, *options): storm.answers.get(number)
        for number, (way, image, options) in enumerate(plan)
        if storm.answers.get(number) != offline.answer(way, image, options)
    }
    lines = map(json.loads, gateway.log.read_text(encoding="utf-8")[sent:].splitlines())
    again = sum(" : " in line["server_codes"] for line in lines)
    ways = Counter(way for way, _, _ in plan)
    print(f"{count} requests {dict(ways)}, {kills} kills, {again} sent again by the gateway, {len(wrong)} wrong")
    print(f"{time.monotonic() - begun:.0f} s")
    assert wrong == {}
    assert len(storm.answers) == count
    # Otherwise no request was in hand when its worker was killed, and nothing is shown.
    assert again >= kills
    server.wait_until_ready(MODEL)
    assert before.isdisjoint(worker["pid"] for worker in server.workers(MODEL))


@pytest.fixture(scope="session")
def offline(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Offline:
    """The same archive in this process."""
    return Offline(store, tmp_path_factory.mktemp("unpacked"))


def test_no_request_is_lost_to_a_kill(
    server: LocalServer, gateway: Gateway, key: tuple[Path, str], offline: Offline
) -> None:
    """500 requests, five kills."""
    rage(Storm(server, gateway, key[1]), offline, 500, 5)


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_request_of_10_000_is_lost_to_50_kills(
    server: LocalServer, gateway: Gateway, key: tuple[Path, str], offline: Offline, part: int
) -> None:
    """The whole of it, a fifth at a time."""
    rage(Storm(server, gateway, key[1]), offline, 10_000 // PARTS, 50 // PARTS, seed=part)
