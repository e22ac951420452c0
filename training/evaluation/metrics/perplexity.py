"""Perplexity of the references: how uncertain a model is of each next token, given all before it."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from training.evaluation.metrics.measure import Array, Measure


class Told(Protocol):
    """What teacher forcing gave.

    nats   : of each reference, minus the logarithm of its probability
    tokens : of each reference, its end included
    """

    @property
    def nats(self) -> Sequence[float]:
        """See above."""
        ...

    @property
    def tokens(self) -> Sequence[int]:
        """See above."""
        ...


def perplexity(totals: Array) -> Array:
    """Perplexity, shape (...), of totals (..., 2): nats, and what they are divided among; infinite beyond a double."""
    with np.errstate(over="ignore"):
        return np.exp(totals[..., 0] / totals[..., 1])


def perplexity_measure(told: Told) -> Measure:
    """Perplexity per token of the model's own tokenizer.

    Not per word: references with words of many rare tokens alone decide that (27,122,036 was seen).
    """
    totals = np.stack([np.array(told.nats), np.array(told.tokens, dtype=float)], axis=1)
    return Measure("perplexity, token", totals, perplexity)
