"""The language of a set of reports: labels and negation are read by English rules."""

import math
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

from prelim.labels.labeler import PHRASES

SAMPLE = 40
"""Texts put together: one report is too short to tell ("No acute disease" looks Romanian)."""

DRAWS = 9

PRIOR = 5.0
"""Nats in favor of English: only short texts are decided by them, of which the model knows little."""

KNOWN, UNKNOWN = math.log(0.8 / 0.15), math.log(0.2 / 0.85)
"""Nats for English of a word that its reports have, and of another.

In lists of one word a line about 0.8 of the words are known if they are English, 0.15 in other languages, which share
`normal` and `edema`. The n-gram model knows little of such lists: it lives on the small words between others.
"""

MOST = 20.0
"""Nats that words count at most, either way: in whole sentences the model is surer than they are."""

COMMON = frozenset(
    ["acute", "and", "are", "clear", "disease", "for", "heart", "left", "limits", "lung", "lungs", "of", "right",
     "seen", "size", "small", "the", "there", "unremarkable", "which", "with", "within", "without"]
)  # fmt: skip
"""English words of reports that the phrases of findings lack."""

# fmt: off
LANGUAGES = frozenset([
    "ar", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hr", "hu", "id", "it", "ja", "ko", "nl",
    "no", "pl", "pt", "ru", "sv", "th", "tr", "uk", "vi", "zh",
])
# fmt: on
"""Languages with many speakers; with all 97 of the model, short reports turn into Galician and Latin."""

SCRIPTS = frozenset(
    ["ARABIC", "CJK", "CYRILLIC", "DEVANAGARI", "GREEK", "HANGUL", "HEBREW", "HIRAGANA", "KATAKANA", "LATIN", "THAI"]
)
"""Scripts of LANGUAGES, as Unicode names begin: in another, whatever language is found is the wrong one."""

MARKED = 0.02
"""Share of letters outside ASCII from which on texts in Latin script are not taken for English in doubt."""

FOREIGN = 10.0
"""Nats by which another language must be ahead of English in one text alone. Of 3,000 English sentences of Open-i the
farthest is behind by 8 ("No focal infiltrates." looks Italian); whole sentences in others are ahead by 10 to 80."""

MIXED = 0.02
"""Share of the texts in other languages from which on they are not scored by rules for English."""

MOST_TEXTS = 1000
"""Distinct texts that are read one by one; of more, a sample."""

CERTAIN = 0.25
"""Nats for each character by which a language must be ahead in every sample: in mixtures of two, and in texts of stems
as PadChest has them, a third is ahead by less."""


def find_language(texts: Sequence[str]) -> str:
    """ISO 639-1 code of most of the texts, such as "en"; empty without words, and in a script of none of LANGUAGES.

    The commonest answer of an n-gram model (Lui and Baldwin, ACL 2012) for random samples of texts, joined.
    """
    return _rank(texts)[0]


def measure_foreign(texts: Sequence[str]) -> tuple[float, str]:
    """Share of the texts that by themselves are clearly not in English, and the commonest language of these, if any.

    Words such as "Cardiomegalia." are too short to tell, so that the share is one at least.
    """
    counts = Counter(text for text in texts if any(character.isalpha() for character in text))
    distinct = sorted(counts)
    if len(distinct) > MOST_TEXTS:
        distinct = random.Random(0).sample(distinct, MOST_TEXTS)  # noqa: S311 - a sample, no secret
    found: Counter[str] = Counter()
    for text in distinct:
        odds = _read_odds(text.lower(), PRIOR)
        first = max(odds, key=lambda name: odds[name])
        if odds[first] - odds["en"] > FOREIGN:
            found[first] += counts[text]
    share = sum(found.values()) / max(sum(counts[text] for text in distinct), 1)
    return share, found.most_common(1)[0][0] if found else ""


def describe_language(texts: Sequence[str]) -> str:
    """Where the texts are not in English, for a message: "in another language (es)", "not English (looks like fr)"."""
    language, certain = _rank(texts)
    if language == "en":
        share, other = measure_foreign(texts)
        return f"in another language, at least {share:.0%} (most look like {other})"
    if not language:
        return "in a language that could not be told"
    return f"in another language ({language})" if certain else f"not English (looks like {language})"


def _rank(texts: Sequence[str]) -> tuple[str, bool]:
    """The language of the texts, and whether it is the same in all samples, by far."""
    words = [text for text in dict.fromkeys(texts) if any(character.isalpha() for character in text)]
    if not words:
        return "", False
    letters = [character for text in words for character in text if character.isalpha()]
    scripts = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in letters)
    if scripts.most_common(1)[0][0] not in SCRIPTS:
        return "", False
    prior = PRIOR if sum(not letter.isascii() for letter in letters) < MARKED * len(letters) else 0.0
    generator = random.Random(0)  # noqa: S311 - a sample, no secret
    found: Counter[str] = Counter()
    certain = True
    for _ in range(DRAWS):
        sample = " ".join(generator.sample(words, min(SAMPLE, len(words)))).lower()
        odds = _read_odds(sample, prior)
        second, first = sorted(LANGUAGES & odds.keys(), key=lambda name: odds[name])[-2:]
        found[first] += 1
        certain = certain and max(odds, key=lambda name: odds[name]) == first  # not Latvian, which is not among them
        certain = certain and odds[first] - odds[second] >= CERTAIN * len(sample)
    return found.most_common(1)[0][0], certain and len(found) == 1


def _read_odds(text: str, prior: float) -> dict[str, float]:
    """Nats for each language that the model knows."""
    import py3langid

    odds = {str(name): float(odd) for name, odd in py3langid.rank(text)}
    odds["en"] += prior + _count_words(text)
    return odds


def _count_words(text: str) -> float:
    """Nats for English, of the distinct words of a text in lower case."""
    words = set(re.findall(r"[^\W\d_]{2,}", text))
    known = len(words & _read_words())
    return min(max(known * KNOWN + (len(words) - known) * UNKNOWN, -MOST), MOST)


@cache
def _read_words() -> frozenset[str]:
    """The words of the phrases by which findings are known, and COMMON."""
    texts = (file.read_text(encoding="utf-8").lower() for file in PHRASES.rglob("*.txt"))
    return COMMON | {word for text in texts for word in re.findall(r"[a-z]{2,}", text)}
