"""A simulation of what deploy.queueing computes, with what that leaves out.

Each host has its own queue and slots, a balancer sends every request to the host with the fewest open ones, and a
report takes longer or shorter as others come and go.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from deploy.queueing import Floats, Service

_NEVER = 1e300


@dataclass
class _Host:
    """One host. `attained` is the work that a report has got which has been in its batch from the start."""

    service: Service
    attained: float = 0.0
    at: float = 0.0
    decoding: list[tuple[float, int]] = field(default_factory=list)
    waiting: deque[tuple[float, int]] = field(default_factory=deque)

    @property
    def open(self) -> int:
        return len(self.decoding) + len(self.waiting)

    def _speed(self) -> float:
        return 1 / self.service.seconds(len(self.decoding))

    def advance(self, now: float) -> None:
        if self.decoding:
            self.attained += (now - self.at) * self._speed()
        self.at = now

    def next_end(self) -> float:
        return self.at + (self.decoding[0][0] - self.attained) / self._speed() if self.decoding else math.inf

    def add(self, work: float, number: int) -> None:
        if len(self.decoding) < self.service.slots:
            heapq.heappush(self.decoding, (self.attained + work, number))
        else:
            self.waiting.append((work, number))

    def end_one(self) -> int:
        _, number = heapq.heappop(self.decoding)
        if self.waiting:
            self.add(*self.waiting.popleft())
        return number


def simulate(
    service: Service, hosts: int, arrivals: float, *, requests: int, room: int | None = None, seed: int = 0
) -> Floats:
    """Seconds from arrival to report of each request, without the first tenth; shape (requests,).

    room : requests that a host takes; NaN are the seconds of one that every host refuses
    """
    random = np.random.default_rng(seed)
    times = np.cumsum(random.exponential(1 / arrivals, requests))
    works = random.choice(service.work, requests)
    pool = [_Host(service) for _ in range(hosts)]
    ended = np.full(requests, np.nan)

    def run_until(now: float) -> None:
        while (first := min(pool, key=_Host.next_end)).next_end() <= now:
            end = first.next_end()
            first.advance(end)
            ended[first.end_one()] = end

    for number, (now, work) in enumerate(zip(times, works, strict=True)):
        run_until(now)
        host = min(pool, key=lambda host: host.open)
        if room is None or host.open < room:
            host.advance(now)
            host.add(work, number)
    run_until(_NEVER)
    return (ended - times)[requests // 10 :]
