"""How often 95 % intervals of F1 contain the true value, by simulation.

$ python -m training.evaluation.metrics.coverage
"""

from collections.abc import Mapping, Sequence

import numpy as np

from training.evaluation.metrics.f1 import f1, f1_interval
from training.evaluation.metrics.measure import Array

REPORTS = 300
POSITIVES = (5, 10, 20, 40)
RECALLS, WRONG = (0.6, 0.9), 0.25
"""Of the simulated systems: shares of the findings that they say, and findings wrongly said for each right one."""


def simulate(positives: Sequence[int] = POSITIVES, *, sets: int = 2000, draws: int = 500) -> dict[int, list[float]]:
    """For each mean number of positive reports the share of simulated sets whose interval contains the true F1.

    sets    : of REPORTS reports, for each of RECALLS; the lower share counts
    draws   : bootstrap draws of each set
    returns : shares of the percentile bootstrap and of `f1_interval`
    """
    return {
        count: np.min([_simulate(count / REPORTS, recall, sets, draws) for recall in RECALLS], axis=0).tolist()
        for count in positives
    }


def _simulate(share: float, recall: float, sets: int, draws: int) -> Array:
    generator = np.random.default_rng(round(share * REPORTS))
    right = share * recall
    chances = np.array([right, right * WRONG, share - right, 1 - share - right * WRONG])
    true = float(f1(chances[:3] * 1e9))
    covered = np.zeros(2)
    for counts in generator.multinomial(REPORTS, chances, size=sets):
        drawn = f1(generator.multinomial(REPORTS, counts / REPORTS, size=draws)[:, :3].astype(float))
        low, high = np.quantile(drawn, [0.025, 0.975])
        _, wilson_low, wilson_high = f1_interval(*(int(number) for number in counts[:3]))
        covered += [low <= true <= high, wilson_low <= true <= wilson_high]
    return covered / sets


def markdown(coverage: Mapping[int, Sequence[float]]) -> str:
    """The table."""
    head = "| reports with the finding, on average | percentile bootstrap | Wilson's, transformed |\n|---|---|---|"
    rows = [f"| {count} | {bootstrap:.0%} | {wilson:.0%} |" for count, (bootstrap, wilson) in coverage.items()]
    return "\n".join([head, *rows]).replace("%", " %")


def main() -> None:
    """The command line."""
    print(markdown(simulate()))


if __name__ == "__main__":
    main()
