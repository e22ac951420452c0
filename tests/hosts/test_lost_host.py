"""A serving host is cut off in the middle of a load, and comes back."""

import time

import pytest

from tests.hosts.conftest import Farm, outcomes

pytestmark = [pytest.mark.hosts, pytest.mark.server]

USERS = 8
BEFORE, AWAY, AFTER = 6, 16, 14
"""Seconds of the load: with both hosts, with one, and with both again."""

OUT = 5
"""Seconds after which a host that is gone gets no further requests, except for one from time to time that tries it."""


def test_host_that_is_cut_off_loses_nothing(farm: Farm) -> None:
    """Its requests in flight are answered by the other one; it gets no further ones while away, and its share again.

    The reports are the same wherever they are written.
    """
    load = farm.load(USERS, BEFORE + AWAY + AFTER, {"num_beams": 2})
    time.sleep(BEFORE)
    cut, before = time.time(), [farm.answered(number) for number in range(2)]
    farm.serving[1].disconnect()
    time.sleep(AWAY)
    restored, away = time.time(), [farm.answered(number) for number in range(2)]
    farm.serving[1].restore()
    found = outcomes(load)
    after = [farm.answered(number) for number in range(2)]

    assert {one["status"] for one in found} == {200}
    assert len({one["report"] for one in found}) == 1
    assert before[1] > 0, "the host that was cut off had no load"
    late = [one for one in found if cut + OUT <= one["begin"] < restored]
    assert len(late) > USERS
    # One request in five seconds tries the host, and is answered by the other.
    assert farm.passed_on(cut + OUT) <= 2 + AWAY / 5
    assert after[1] > away[1] + USERS, "the host was not put back"
