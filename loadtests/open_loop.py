"""Open-loop load: send requests at their planned times, whether or not earlier ones have been answered."""

import time
from collections.abc import Callable, Sequence

import gevent
from gevent.pool import Group

from loadtests.outcomes import SentRequest
from loadtests.sender import Failed
from loadtests.traffic import PlannedRequest

MAX_IN_FLIGHT = 400
"""Maximum number of requests in flight; each holds a socket and a copy of its file."""


def send_open_loop(
    plan: Sequence[PlannedRequest],
    send: Callable[[PlannedRequest], None],
    record: Callable[[SentRequest], None],
    drain_s: float,
) -> None:
    """Send a plan, each request in its own greenlet, and record exactly one outcome for each.

    send    : sends one request and waits; raises Failed
    record  : called with each outcome
    drain_s : seconds to wait, after the last arrival, for requests in flight
    """
    begin = time.monotonic()
    open_requests = {request.number: request for request in plan}

    def finish(request: PlannedRequest, started: float, failure: Failed | None) -> None:
        # Absent if it was given up in the meantime.
        if open_requests.pop(request.number, None) is not None:
            planned = begin + request.due
            record(SentRequest(request, started - begin - request.at, time.monotonic() - planned, failure))

    def run(request: PlannedRequest) -> None:
        started = time.monotonic()
        failure: Failed | None = None
        try:
            send(request)
        except Failed as error:
            failure = error
        finish(request, started, failure)

    greenlets = Group()
    for request in plan:
        gevent.sleep(max(0.0, begin + request.at - time.monotonic()))
        if len(greenlets) < MAX_IN_FLIGHT:
            greenlets.spawn(run, request)
        else:
            # Waiting here would turn the open loop into a closed one.
            finish(request, time.monotonic(), Failed(f"not sent: {MAX_IN_FLIGHT} requests in flight"))
    greenlets.join(timeout=drain_s)
    greenlets.kill()
    for request in list(open_requests.values()):
        finish(request, begin + request.at, Failed(f"no outcome {drain_s:.0f} s after the last arrival"))
