"""A closed loop keeps a server busy and sends no faster than it answers."""

from collections.abc import Iterator

import gevent
import pytest

from loadtests.closed_loop import send_closed_loop
from loadtests.load import Load
from loadtests.outcomes import SentRequest, summarize
from loadtests.payloads import Payload
from loadtests.sender import Failed
from loadtests.traffic import PlannedRequest, draw_requests

USERS = 3


@pytest.fixture
def requests() -> Iterator[PlannedRequest]:
    """Endless requests."""
    return draw_requests(Load(tokens=16), [Payload("PNG", b"image")], [])


def test_each_user_has_one_request_in_flight(requests: Iterator[PlannedRequest]) -> None:
    """Between start and end every user waits for an answer; every request is sent once."""
    in_flight: list[int] = []
    sent: list[int] = []
    outcomes: list[SentRequest] = []
    now = 0

    def send(request: PlannedRequest) -> None:
        nonlocal now
        now += 1
        in_flight.append(now)
        sent.append(request.number)
        gevent.sleep(0.02)
        now -= 1

    send_closed_loop(requests, USERS, 0.2, send, outcomes.append)

    assert max(in_flight) == USERS
    assert min(in_flight[USERS:]) == USERS
    assert sent == list(range(len(sent)))
    assert sorted(outcome.request.number for outcome in outcomes) == sent


def test_user_continues_after_a_failure(requests: Iterator[PlannedRequest]) -> None:
    """A failed request is recorded with the others, and its user sends the next request."""
    outcomes: list[SentRequest] = []

    def send(request: PlannedRequest) -> None:
        gevent.sleep(0.01)
        if request.number % 2:
            raise Failed("500")

    send_closed_loop(requests, 1, 0.2, send, outcomes.append)

    assert [outcome.failure is not None for outcome in outcomes[:4]] == [False, True, False, True]
    assert summarize(outcomes).failures == {"500": sum(outcome.failure is not None for outcome in outcomes)}
