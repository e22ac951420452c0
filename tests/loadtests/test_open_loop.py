"""Arrivals keep their times whatever the server does, and no planned request is lost."""

import gevent
import pytest
from gevent.lock import Semaphore

from loadtests import open_loop
from loadtests.open_loop import send_open_loop
from loadtests.outcomes import SentRequest
from loadtests.payloads import Payload
from loadtests.sender import Failed
from loadtests.traffic import PlannedRequest

SERVICE_S = 0.05


def plan(count: int, gap: float) -> list[PlannedRequest]:
    """Requests at equal intervals of `gap` seconds."""
    payload = Payload("PNG 0", b"image")
    return [PlannedRequest(n, n * gap, "HTTP", "raw", payload, "greedy", {}) for n in range(count)]


def test_slow_server_cannot_hide_its_queue() -> None:
    """Requests that arrive five times too fast for a server with one slot wait longer and longer."""
    place = Semaphore(1)
    outcomes: list[SentRequest] = []

    def send(_: PlannedRequest) -> None:
        with place:
            gevent.sleep(SERVICE_S)

    send_open_loop(plan(20, SERVICE_S / 5), send, outcomes.append, drain_s=10)

    latencies = {outcome.request.number: outcome.latency for outcome in outcomes}
    assert len(latencies) == 20
    assert latencies[19] > 19 * SERVICE_S * 4 / 5
    assert max(outcome.late for outcome in outcomes) < SERVICE_S * 5


def test_latency_counts_from_the_planned_arrival() -> None:
    """A delayed load generator counts the delay as latency and reports it as lateness."""
    outcomes: list[SentRequest] = []

    def send(request: PlannedRequest) -> None:
        if request.number == 0:
            # Blocks the whole process, as a garbage collection would.
            import time

            time.sleep(0.3)

    send_open_loop(plan(2, 0.01), send, outcomes.append, drain_s=10)

    assert outcomes[1].late > 0.2
    assert outcomes[1].latency >= outcomes[1].late


def test_every_request_has_one_outcome() -> None:
    """Each request is recorded once, whether answered, failed, unanswered or broken by a bug."""
    outcomes: list[SentRequest] = []

    def send(request: PlannedRequest) -> None:
        if request.number == 1:
            raise Failed("503", shed=True)
        if request.number == 2:
            gevent.sleep(60)

    send_open_loop(plan(4, 0.0), send, outcomes.append, drain_s=0.2)

    found = {outcome.request.number: str(outcome.failure) for outcome in outcomes}
    assert len(outcomes) == 4
    assert found[0] == found[3] == "None"
    assert found[1] == "503"
    assert found[2].startswith("no outcome")


def test_requests_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound a request fails at its planned time instead of waiting."""
    monkeypatch.setattr(open_loop, "MAX_IN_FLIGHT", 3)
    outcomes: list[SentRequest] = []

    send_open_loop(plan(5, 0.0), lambda _: gevent.sleep(0.1), outcomes.append, drain_s=10)

    failures = [str(outcome.failure) for outcome in outcomes if outcome.failure is not None]
    assert failures == ["not sent: 3 requests in flight"] * 2
