"""The protocol of R2Gen, by which most published scores on IU X-Ray were computed.

Source: Chen et al., "Generating Radiology Reports via Memory-driven Transformer", EMNLP 2020, and its public code.
References and reports are cleaned alike, cut into tokens (a sentence's end is one), cut off after `max_tokens`, and
words that training has fewer than `min_count` times become <unk> in both.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

UNKNOWN = "<unk>"

# The published expression has a range from ":" to "[" by mistake; so ";<=>?@" go as well, and hyphens stay.
_REMOVED = str.maketrans("", "", ".,?;*!%^&_+():<=>@[]{}\"'/\\" + "，、：；（）【】《》「」？！")

_WORDLESS = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
"""Characters of scripts that put no spaces between words: kana and Chinese characters."""


def tokens(report: str) -> list[str]:
    """The cleaned words of a report, with "." after every sentence; none of a report without words.

    R2Gen knows English alone. In other languages accents stay, however they are encoded, and each Chinese or Japanese
    character is a word, as in sacrebleu's `zh`.
    """
    text = unicodedata.normalize("NFC", report).replace("。", ". ")
    for _ in range(3):
        text = text.replace("..", ".")
    text = text.replace("1. ", "")
    for listed in (". {}. ", " {}. "):
        for number in range(2, 6):
            text = text.replace(listed.format(number), ". ")
    sentences = text.strip().lower().split(". ")
    words = [_WORDLESS.sub(r" \1 ", sentence.translate(_REMOVED)).split() for sentence in sentences]
    return [token for sentence in words for token in (*sentence, ".")] if any(words) else []


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
