"""The language of a set of reports: labels and negation are read by English rules."""

import random
from collections import Counter
from collections.abc import Sequence

SAMPLE = 40
"""Texts put together: one report is too short to tell ("No acute disease" looks Romanian)."""

DRAWS = 9

PRIOR = 5.0
"""Nats in favor of English: only short texts are decided by them, of which the model knows little."""

# fmt: off
LANGUAGES = frozenset([
    "ar", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hr", "hu", "id", "it", "ja", "ko", "nl",
    "no", "pl", "pt", "ru", "sv", "th", "tr", "uk", "vi", "zh",
])
# fmt: on
"""Languages with many speakers; with all 97 of the model, short reports turn into Galician and Latin."""


def find_language(texts: Sequence[str]) -> str:
    """ISO 639-1 code of most of the texts, such as "en"; empty where they have no words.

    The commonest answer of an n-gram model (Lui and Baldwin, ACL 2012) for random samples of texts, joined.
    """
    import py3langid

    words = [text for text in dict.fromkeys(texts) if any(character.isalpha() for character in text)]
    if not words:
        return ""
    generator = random.Random(0)  # noqa: S311 - a sample, no secret
    found: Counter[str] = Counter()
    for _ in range(DRAWS):
        sample = " ".join(generator.sample(words, min(SAMPLE, len(words)))).lower()
        odds = {str(name): float(odd) + PRIOR * (name == "en") for name, odd in py3langid.rank(sample)}
        found[max(LANGUAGES & odds.keys(), key=lambda name: odds[name])] += 1
    return found.most_common(1)[0][0]
