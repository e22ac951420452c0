"""The time that reports take on hosts that decode several at once.

A host decodes up to `slots` reports in one batch, which share it equally; the more there are, the more it finishes in a
second, up to a limit. Further ones wait in order of arrival. That is a processor-sharing queue whose speed depends on
how many it serves, with a bound (limited processor sharing).

Below the bound the number in such a queue has the same distribution whatever the lengths of the reports: only their
mean counts (Kelly, Reversibility and Stochastic Networks, 1979, section 3.3; Cohen, The multiple phase service network
with generalized processor sharing, Acta Informatica 12, 1979). Above it the wait is that of exponential lengths, as in
M/M/c, corrected for their variance (Allen, Probability, Statistics and Queueing Theory, 1990, section 5.3).
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_NEGLIGIBLE = 1e-12


@dataclass(frozen=True)
class Service:
    """What one host does.

    in_flight     : numbers of reports that are decoded together, rising; the last is the number of slots
    reports_per_s : finished by the host with so many
    work          : shape (lengths,); relative work of equally likely kinds of reports, mean 1
    """

    in_flight: list[int]
    reports_per_s: list[float]
    work: Floats = field(compare=False)

    @property
    def slots(self) -> int:
        """The most that are decoded together."""
        return self.in_flight[-1]

    def rate(self, in_flight: float | Floats) -> Floats:
        """Reports per second with so many in flight, a fraction on average over hosts: linear between the points."""
        return np.asarray(np.interp(in_flight, [0, *self.in_flight], [0.0, *self.reports_per_s]))

    def seconds(self, in_flight: float) -> float:
        """Seconds of a report of mean work while so many are in flight."""
        return float(in_flight / self.rate(in_flight))


class Pool:
    """Hosts that share a load: a balancer gives each request to the host with the fewest open ones.

    They are taken as one queue with the slots of all. Arrivals are a Poisson process. A report that finds n others is
    taken to have n others all the time: the mean stays the same (Little's law), percentiles are approximate.

    arrivals : per second

    utilization : share of what the hosts can do at most; from 1 on the queue grows without end
    """

    def __init__(self, service: Service, hosts: int, arrivals: float) -> None:
        served = np.arange(1, hosts * service.slots + 1)
        rates = hosts * service.rate(served / hosts)
        self._work, self._seconds = service.work, served / rates
        self.utilization = float(arrivals / rates[-1])
        if self.utilization >= 1:
            return
        # Weights of 0, 1, ... in the queue; with all slots taken they fall geometrically.
        logarithms = np.concatenate([[0.0], np.cumsum(np.log(arrivals) - np.log(rates))])
        weights = np.exp(logarithms - logarithms.max())
        waiting = weights[-1] / (1 - self.utilization)
        total = weights[:-1].sum() + waiting
        self._found, self.waits = weights[:-1] / total, float(waiting / total)
        # Equal reports end more regularly than those of M/M/c, so that the next one waits less (Allen and Cunneen).
        regularity = 2 / (1 + float(service.work.var()))
        self._drain = float(rates[-1] - arrivals) * regularity

    def mean(self) -> float:
        """Mean seconds from arrival to report."""
        if self.utilization >= 1:
            return np.inf
        return float(self._found @ self._seconds + self.waits * (1 / self._drain + self._seconds[-1]))

    def share_within(self, seconds: float) -> float:
        """Share of the reports that are there after so many seconds."""
        likely = self._found > _NEGLIGIBLE
        at_once = (self._seconds[likely, None] * self._work <= seconds).mean(axis=1) @ self._found[likely]
        # The wait for a slot is exponential.
        left = np.maximum(0.0, seconds - self._seconds[-1] * self._work)
        return float(at_once + self.waits * (1 - np.exp(-self._drain * left)).mean())

    def percentile(self, share: float) -> float:
        """Seconds after which this share of the reports is there; infinite where the queue grows without end."""
        if self.utilization >= 1:
            return np.inf
        low, high = 0.0, self.mean()
        while self.share_within(high) < share:
            low, high = high, 2 * high
        while high - low > 1e-4 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if self.share_within(middle) >= share else (middle, high)
        return high
