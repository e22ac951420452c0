"""The network between the gateway and a serving host loses packets, is slow, resets connections, or is cut.

`tc netem` is not in every kernel. Loss and resets are those of iptables, delay that of a queue in front of a slow link.
"""

import shutil
import time
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
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_the_network_costs_no_request(farm: Farm, fault: str) -> None:
    """Every request is answered once, with the report, and the host has its share again afterwards."""
    host = farm.serving[1]
    load = farm.load(USERS, BEFORE + FAULT + AFTER, {"num_beams": 2})
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
    assert {one["status"] for one in found} == {200}
    assert len({one["report"] for one in found}) == 1
    assert back is not None, "the host was not put back"
