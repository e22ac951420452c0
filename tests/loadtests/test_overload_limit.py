"""What any limit on the requests in hand can do under overload: docs/faults.md quotes these figures."""

import numpy as np
import pytest

from deploy.queueing import Service
from loadtests.overload import MAX_P95_FACTOR
from loadtests.sweep import LONE_FACTOR, MAX_FAILURE_RATE, STEP
from tests.deploy.simulation import simulate

REQUESTS = 6_000
SERVER = Service([1, 2, 64], [25.0, 21.0, 21.0], np.linspace(0.8, 1.2, 5))
"""A small model on two cores: reports share the processor, and several together are no faster than one by one."""


def run(arrivals: float, room: int) -> tuple[float, float]:
    """p95 of the reports in seconds, and the share of requests that are refused."""
    seconds = simulate(SERVER, 1, arrivals, requests=REQUESTS, room=room)
    return float(np.nanquantile(seconds, 0.95)), float(np.isnan(seconds).mean())


def saturate(room: int) -> tuple[float, float]:
    """The highest rate that a sweep calls held, and its p95 in seconds."""
    rate, held = 3.0, (0.0, 0.0)
    while True:
        p95, refused = run(rate, room)
        if p95 > LONE_FACTOR / SERVER.reports_per_s[0] or refused > MAX_FAILURE_RATE:
            return held
        held, rate = (rate, p95), rate * STEP**0.5


@pytest.mark.parametrize("room", [4, 8])
def test_half_more_than_the_p95_at_saturation_takes_a_server_that_stands_idle(room: int) -> None:
    """Arrivals are random: room for all but 0.1 % of them is full under overload, and a full room is slow.

    Only with so little room that refusals begin at a third of what the server can do is the factor kept.
    """
    rate, p95 = saturate(room)
    overloaded, _ = run(2 * rate, room)

    assert overloaded > MAX_P95_FACTOR * p95 or rate < SERVER.reports_per_s[-1] / 3
