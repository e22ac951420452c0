"""The language of a set of reports: labels and negation are read by English rules."""

import random
from collections import Counter
from collections.abc import Sequence

from py3langid.langid import MODEL_FILE, LanguageIdentifier

SAMPLE = 40
"""Texts put together: one report is too short to tell ("Normal heart")."""

DRAWS = 15


def find_language(texts: Sequence[str]) -> str:
    """ISO 639-1 code of most of the texts, such as "en"; empty where they have no words.

    The commonest answer of an n-gram model (Lui and Baldwin, ACL 2012) for random samples of texts, joined.
    """
    words = [text for text in dict.fromkeys(texts) if any(character.isalpha() for character in text)]
    if not words:
        return ""
    identifier = LanguageIdentifier.from_pickled_model(MODEL_FILE)
    generator = random.Random(0)  # noqa: S311 - a sample, no secret
    found = Counter(
        identifier.classify(" ".join(generator.sample(words, min(SAMPLE, len(words)))).lower())[0] for _ in range(DRAWS)
    )
    return str(found.most_common(1)[0][0])
