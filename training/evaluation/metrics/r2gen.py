"""The protocol of R2Gen, by which most published scores on IU X-Ray were computed.

Source: Chen et al., "Generating Radiology Reports via Memory-driven Transformer", EMNLP 2020, and its public code.
References and reports are cleaned alike, cut into tokens (a sentence's end is one), cut off after `max_tokens`, and
words that training has fewer than `min_count` times become <unk> in both.
"""

from collections import Counter
from collections.abc import Iterable

UNKNOWN = "<unk>"

# The published expression has a range from ":" to "[" by mistake; so ";<=>?@" go as well, and hyphens stay.
_REMOVED = str.maketrans("", "", ".,?;*!%^&_+():<=>@[]{}\"'/\\")


def tokens(report: str) -> list[str]:
    """The cleaned words of a report, with "." after every sentence."""
    text = report
    for _ in range(3):
        text = text.replace("..", ".")
    text = text.replace("1. ", "")
    for listed in (". {}. ", " {}. "):
        for number in range(2, 6):
            text = text.replace(listed.format(number), ". ")
    sentences = text.strip().lower().split(". ")
    return [token for sentence in sentences for token in (*sentence.translate(_REMOVED).split(), ".")]


class Protocol:
    """Makes of a report what R2Gen scores.

    train      : training reports, whose words are the vocabulary; without any, no word is unknown
    min_count  : words of the vocabulary occur at least so often
    max_tokens : R2Gen's `max_seq_length`, of which the start token takes one
    """

    def __init__(self, train: Iterable[str], min_count: int = 3, max_tokens: int = 60) -> None:
        counts = Counter(token for report in train for token in tokens(report))
        self.vocabulary = frozenset(token for token, count in counts.items() if count >= min_count)
        self._length = max_tokens - 1

    def __call__(self, report: str) -> str:
        """The report as it is scored: tokens joined by spaces."""
        kept = tokens(report)[: self._length]
        return " ".join(token if not self.vocabulary or token in self.vocabulary else UNKNOWN for token in kept)
