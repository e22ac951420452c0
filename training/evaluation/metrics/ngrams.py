"""BLEU as pycocoevalcap computes it, from counts; and the one text that has the highest BLEU if it is always said.

Source: Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from training.evaluation.metrics.measure import Array, Measure

ORDERS = 4
_SMALL, _TINY = 1e-9, 1e-15
"""pycocoevalcap adds these to counts that may be zero."""

Ngram = tuple[str, ...]


def ngram_counts(tokens: Sequence[str]) -> Counter[Ngram]:
    """How often each n-gram of 1 to ORDERS tokens occurs."""
    return Counter(
        tuple(tokens[i : i + order]) for order in range(1, ORDERS + 1) for i in range(len(tokens) - order + 1)
    )


def bleu_counts(text: str, *references: str) -> list[int]:
    """What corpus BLEU adds up for one text: its length, the reference's, n-grams of each order, matching ones.

    Texts are split at white space. Of several references the length closest to the text's counts, of two such the
    smaller, and an n-gram matches as often as the reference that has it most often allows.
    """
    tokens = text.split()
    golds = [reference.split() for reference in references]
    length = min((abs(len(gold) - len(tokens)), len(gold)) for gold in golds)[1]
    allowed: Counter[Ngram] = Counter()
    for gold in golds:
        allowed |= ngram_counts(gold)
    matching = ngram_counts(tokens) & allowed
    return [len(tokens), length, *_guessed(len(tokens)), *_by_order(matching.items())]


def bleu(totals: Array, order: int) -> Array:
    """Corpus BLEU, shape (...), from sums of `bleu_counts`, shape (..., 2 + 2 ORDERS)."""
    length, reference_length = totals[..., 0], totals[..., 1]
    guessed, matching = totals[..., 2 : 2 + order], totals[..., 2 + ORDERS : 2 + ORDERS + order]
    precision = np.prod((matching + _TINY) / (guessed + _SMALL), axis=-1) ** (1 / order)
    ratio = (length + _TINY) / (reference_length + _SMALL)
    return precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))


def gather_references(references: Sequence[str], further: Sequence[Sequence[str]]) -> list[list[str]]:
    """All references of each report: the first, and the further ones where any report has some."""
    others = further or [()] * len(references)
    return [[reference, *several] for reference, several in zip(references, others, strict=True)]


def bleu_measures(
    texts: Sequence[str], references: Sequence[str], further: Sequence[Sequence[str]] = ()
) -> list[Measure]:
    """BLEU-1 to BLEU-4 of tokenized texts."""
    golds = gather_references(references, further)
    counts = np.array([bleu_counts(text, *several) for text, several in zip(texts, golds, strict=True)], dtype=float)
    return [Measure(f"BLEU-{order}", counts, partial(bleu, order=order)) for order in range(1, ORDERS + 1)]


def best_constant(candidates: Iterable[str], references: Sequence[str]) -> str:
    """The candidate with the highest corpus BLEU-4 if it is said for every reference; of equal ones the first said.

    Exact, not a sample: the matches of a candidate with all references are, for each of its n-grams that occurs k
    times, the number of references that have it at least once, plus those with at least two, up to k.
    """
    at_least: defaultdict[Ngram, list[int]] = defaultdict(list)
    reference_length = 0
    for reference in references:
        tokens = reference.split()
        reference_length += len(tokens)
        for ngram, count in ngram_counts(tokens).items():
            having = at_least[ngram]
            having.extend([0] * (count - len(having)))
            for k in range(count):
                having[k] += 1
    distinct = list(dict.fromkeys(candidates))
    totals = np.empty((len(distinct), 2 + 2 * ORDERS))
    for row, candidate in zip(totals, distinct, strict=True):
        tokens = candidate.split()
        counts = ngram_counts(tokens)
        matching = {ngram: sum(at_least.get(ngram, ())[:count]) for ngram, count in counts.items()}
        guessed = [len(references) * number for number in _guessed(len(tokens))]
        row[:] = [len(references) * len(tokens), reference_length, *guessed, *_by_order(matching.items())]
    return distinct[int(bleu(totals, ORDERS).argmax())]


def _guessed(length: int) -> list[int]:
    """How many n-grams of each order a text of so many tokens has."""
    return [max(0, length - order) for order in range(ORDERS)]


def _by_order(counts: Iterable[tuple[Ngram, int]]) -> list[int]:
    totals = [0] * ORDERS
    for ngram, count in counts:
        totals[len(ngram) - 1] += count
    return totals
