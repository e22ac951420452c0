"""A fixed number of users, each of whom sends the next request when the last one was answered.

This finds how much a server can do at most: it always has work, and never more than it can queue. Of latency it says
nothing, since a slow server is asked less often.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator

from gevent.pool import Group

from loadtests.outcomes import Outcome
from loadtests.sender import Failed
from loadtests.traffic import PlannedRequest


def send_closed_loop(
    requests: Iterator[PlannedRequest],
    users: int,
    seconds: float,
    send: Callable[[PlannedRequest], None],
    record: Callable[[Outcome], None],
) -> None:
    """Send for so many seconds, then wait for what is in flight.

    requests : without end; their arrival is when they are sent
    send     : sends one request and waits; raises Failed
    record   : takes the outcomes as they come
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
            record(Outcome(request, 0.0, time.monotonic() - begin - now, failure))

    group = Group()
    for _ in range(users):
        group.spawn(use)
    group.join(raise_error=True)
