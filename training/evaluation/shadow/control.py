"""A control chart of shares (p chart): groups of studies in the order of time, and which of them are out of control.

Source: Montgomery, "Introduction to Statistical Quality Control", chapter 7 (fraction nonconforming, groups of varying
size). Its limits take the share of the baseline as known. Here it is estimated from some hundred studies, so the limits
are those of the predictive distribution, which is beta-binomial: with Jeffreys' prior (1/2, 1/2) and x of n studies in
the baseline, a group of m studies has BetaBinomial(m, x + 1/2, n - x + 1/2). They are exact counts, not 3 sigma: shares
here are near 0, where the normal approximation alarms too often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, lgamma, log

import numpy as np

ALARM = 0.0027
"""Share of groups that are out of control by chance, at most; that of 3 sigma."""


@dataclass(frozen=True)
class Group:
    """Studies of one stretch of time.

    name  : such as a week
    total : studies
    count : of them, those that are counted
    """

    name: str
    total: int
    count: int


@dataclass(frozen=True)
class ChartPoint:
    """A group in the chart.

    low, high : counts from `low` to `high` are in control; None in the baseline
    """

    group: Group
    low: int | None = None
    high: int | None = None

    @property
    def is_out(self) -> bool:
        """Whether the group is out of control."""
        return self.low is not None and self.high is not None and not self.low <= self.group.count <= self.high


def chart(groups: Sequence[Group], baseline: int, alarm: float = ALARM) -> list[ChartPoint]:
    """The groups with the limits that follow from the first ones.

    baseline : number of groups that the limits are from
    alarm    : share of groups that are out of control by chance, at most, half of it on each side
    """
    first, later = groups[:baseline], groups[baseline:]
    total, count = sum(group.total for group in first), sum(group.count for group in first)
    points = [ChartPoint(group) for group in first]
    return points + [ChartPoint(group, *limits(count, total, group.total, alarm)) for group in later]


def limits(count: int, total: int, size: int, alarm: float) -> tuple[int, int]:
    """The smallest and the largest count of a group that are in control.

    count, total : of the baseline
    size         : studies of the group
    """
    below = np.cumsum([0.0, *_predict(count + 0.5, total - count + 0.5, size)])  # P(X < k) for k = 0 ... size + 1
    low = int(np.searchsorted(below, alarm / 2, side="right")) - 1
    above = 1 - below[1:]  # P(X > k) for k = 0 ... size
    return max(low, 0), int(np.argmax(above <= alarm / 2))


def _predict(a: float, b: float, size: int) -> list[float]:
    """Probabilities of 0 ... size of a beta-binomial distribution."""

    def log_beta(x: float, y: float) -> float:
        return lgamma(x) + lgamma(y) - lgamma(x + y)

    def log_probability(k: int) -> float:
        choose = -log_beta(size - k + 1, k + 1) - log(size + 1)
        return choose + log_beta(k + a, size - k + b) - log_beta(a, b)

    return [exp(log_probability(k)) for k in range(size + 1)]
