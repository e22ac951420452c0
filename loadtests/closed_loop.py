"""Closed-loop load: a fixed number of users, each sending the next request when the last one is answered.

Measures maximum throughput: the server always has work, and never more than it can queue. It does not measure latency,
since a slow server gets fewer requests.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator

from gevent.pool import Group

from loadtests.outcomes import SentRequest
from loadtests.sender import Failed
from loadtests.traffic import PlannedRequest


def send_closed_loop(
    requests: Iterator[PlannedRequest],
    users: int,
    seconds: float,
    send: Callable[[PlannedRequest], None],
    record: Callable[[SentRequest], None],
) -> None:
    """Send requests for a number of seconds, then wait for those in flight.

    requests : endless; each arrives when it is sent
    send     : sends one request and waits; raises Failed
    record   : called with each outcome
    """
    begin = time.monotonic()

    def use() -> None:
        while (now := time.monotonic() - begin) < seconds:
            request = dataclasses.replace(next(requests), at=now)
            failure: Failed | None = None
            try:
                send(request)
            except Failed as error:
                failure = error
            record(SentRequest(request, 0.0, time.monotonic() - begin - now, failure))

    group = Group()
    for _ in range(users):
        group.spawn(use)
    group.join(raise_error=True)
