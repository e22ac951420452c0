"""A measure of a system's reports, as sums over reports, and how sure one can be of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def mean(totals: Array) -> Array:
    """The mean of a quantity, of totals (..., 2): its sum and the number of summands; NaN of none."""
    with np.errstate(invalid="ignore"):
        return totals[..., 0] / totals[..., 1]


@dataclass(frozen=True)
class Measure:
    """A figure for a set of reports that follows from sums over them.

    BLEU, F1 and perplexity are not means over reports, but all follow from counts that are added up; so a bootstrap
    draw costs one matrix product, and nothing is scored twice.

    name       : key in JSON and title of its row
    statistics : Array, shape (reports, counts), what is added up
    value      : totals, shape (..., counts) -> figure, shape (...)
    """

    name: str
    statistics: Array = field(repr=False)
    value: Callable[[Array], Array] = mean

    @classmethod
    def of_reports(cls, name: str, scores: Sequence[float] | Array) -> "Measure":
        """The mean of a score that each report has by itself."""
        values = np.asarray(scores, dtype=np.float64)
        return cls(name, np.stack([values, np.ones_like(values)], axis=1))

    def score(self) -> float:
        """The figure for all reports."""
        return float(self.value(self.statistics.sum(axis=0)))


class Interval(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


class Bootstrap:
    """Percentile intervals from the same draws of patients for every measure, so that differences are paired.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; paired, as for BLEU in Koehn, "Statistical
    Significance Tests for Machine Translation Evaluation", EMNLP 2004.

    patients : whose report each is: patients are drawn, since reports of one patient are alike; of one patient alone,
               limits are NaN
    """

    def __init__(self, patients: Sequence[str], draws: int = 2000, seed: int = 0) -> None:
        names = sorted(set(patients))
        index = {name: i for i, name in enumerate(names)}
        self._owner = np.array([index[patient] for patient in patients])
        chance = np.full(len(names), 1 / len(names))
        times = np.random.default_rng(seed).multinomial(len(names), chance, size=draws)
        self._times = times.astype(np.float64)

    def interval(self, measure: Measure) -> Interval:
        """The figure with its interval."""
        return Interval(measure.score(), *self._limits(self._resample(measure)))

    def difference(self, measure: Measure, other: Measure) -> Interval:
        """By how much a measure exceeds that of another system on the same reports."""
        drawn = self._resample(measure) - self._resample(other)
        return Interval(measure.score() - other.score(), *self._limits(drawn))

    def _resample(self, measure: Measure) -> Array:
        """The figure for every draw, shape (draws,)."""
        of_patient = np.zeros((self._times.shape[1], measure.statistics.shape[1]))
        np.add.at(of_patient, self._owner, measure.statistics)
        return measure.value(self._times @ of_patient)

    def _limits(self, drawn: Array) -> tuple[float, float]:
        if self._times.shape[1] == 1:
            return math.nan, math.nan
        with np.errstate(invalid="ignore"):
            low, high = np.nanquantile(drawn, [0.025, 0.975])
        return float(low), float(high)
