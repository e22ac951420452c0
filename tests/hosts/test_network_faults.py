"""The network between the gateway and a serving host loses packets, is slow, resets connections, or is cut.

Loss and resets are those of iptables, delay that of a queue in front of a slow link. `tc netem`, which can also send
packets twice and in another order, is not in every kernel: without it that part is skipped.
"""

import re
import shutil
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.hosts.conftest import Farm, outcomes
from tests.hosts.network import Host

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.server,
    pytest.mark.skipif(shutil.which("iptables") is None, reason="iptables is not installed"),
]

USERS = 6
BEFORE, FAULT, AFTER = 3, 10, 8
"""Seconds of the load: with a sound network, with the fault, and with a sound network again."""

FAULTS: dict[str, Callable[[Host], None]] = {
    "loss": lambda host: host.lose(0.1),
    "delay": lambda host: host.slow_down("256kbit"),
    "reset": lambda host: host.reset(),
    "partition": lambda host: host.lose(1.0),
    "netem": lambda host: host.emulate("delay 100ms 50ms loss 5% duplicate 5% reorder 20% 50%"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_the_network_costs_no_request(farm: Farm, fault: str) -> None:
    """Every request is answered once, with the report, and the host has its share again afterwards.

    No request is decoded more than twice on both hosts together, nor twice unless the front gateway has sent it again.
    """
    host = farm.serving[1]
    if fault == "netem" and not host.can_emulate():
        pytest.skip("this kernel has no netem")
    load = farm.load(USERS, BEFORE + FAULT + AFTER, {"num_beams": 2}, ways="http,grpc")
    time.sleep(BEFORE)
    begun = time.time()
    FAULTS[fault](host)
    time.sleep(FAULT)
    host.heal()
    healed, seen = time.time(), farm.answered(1)
    back = None
    while back is None and time.time() < healed + AFTER:
        if farm.answered(1) > seen + USERS:
            back = time.time() - healed
        time.sleep(0.1)
    found = outcomes(load)

    slowest = max(one["seconds"] for one in found if one["begin"] >= begun - 1)
    print(f"{fault}: {len(found)} requests, slowest {slowest:.1f} s, host back after {back} s")
    assert [one for one in found if one["status"] != 200] == []
    assert len({one["report"] for one in found}) == 1
    assert {one["way"] for one in found} == {"http", "grpc"}
    assert back is not None, "the host was not put back"
    assert len({one["id"] for one in found}) == len(found)
    tries = tries_of(farm)
    decoded = farm.decoded()
    repeated = {one["id"]: decoded[one["id"]] for one in found if decoded[one["id"]] != 1}
    print(f"{fault}: decoded twice: {len(repeated)}, sent twice: {sum(tries[one['id']] > 1 for one in found)}")
    assert all(1 <= decoded[one["id"]] <= min(2, tries[one["id"]]) for one in found), repeated


def tries_of(farm: Farm) -> dict[str, int]:
    """How often the front gateway has sent each request, by its id; it has one line for each, as for each answer."""
    lines = farm.lines("front")
    assert max(Counter(line["request"] for line in lines).values()) == 1
    return {line["request"]: len(re.split(", | : ", line["server_codes"])) for line in lines}
