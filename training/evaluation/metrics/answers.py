"""Answers to questions about images: right or wrong, not more or less alike.

Texts are compared as SQuAD's evaluation script does it (Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine
Comprehension of Text", EMNLP 2016): in lower case, without punctuation and articles.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from training.evaluation.metrics.measure import Array, Measure, mean
from training.evaluation.metrics.ngrams import gather_references
from training.evaluation.metrics.overlap import Measures, Systems

_ASKS = re.compile(
    r"\?\s*$|^\s*(?:what|where|which|who|whose|when|why|how|is|are|was|were|do|does|did|has|have|had|can|could|in what|"
    r"in which|on which|at what|at which)\b",
    re.IGNORECASE,
)
_CLOSED = ("yes", "no")


def are_questions(prompts: Sequence[str]) -> bool:
    """Whether studies are asked different things, and most of these are questions: then the texts are answers."""
    different = set(filter(None, prompts))
    return len(different) > 1 and 2 * sum(bool(_ASKS.search(prompt)) for prompt in prompts) > len(prompts)


def normalize(text: str) -> str:
    """A text as SQuAD's script compares it."""
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", plain).split())


def is_right(text: str, reference: str) -> bool:
    """Whether an answer is the reference; where that is yes or no, whether the answer begins with it."""
    said, gold = normalize(text), normalize(reference)
    return said == gold or (gold in _CLOSED and said.split(" ", 1)[0] == gold)


def token_f1(text: str, reference: str) -> float:
    """SQuAD's F1 of the words of two texts; 1 where both have none."""
    said, gold = normalize(text).split(), normalize(reference).split()
    if not said or not gold:
        return float(said == gold)
    shared = sum((Counter(said) & Counter(gold)).values())
    return 2 * shared / (len(said) + len(gold))


def answer_measures(
    systems: Systems, references: Sequence[str], further: Sequence[Sequence[str]], kinds: Sequence[str]
) -> tuple[Measures, str]:
    """Exact match of all answers, of closed and of open ones, and the open ones' F1 of words; how many are closed.

    further : other references of each study; the best of all counts. None where no study has any
    kinds   : what the data set says of each question, such as VQA-RAD's `CLOSED`; elsewhere, yes and no are closed
    """
    golds = gather_references(references, further)
    closed = np.array(
        [
            kind.strip().lower() == "closed" if kind else normalize(reference) in _CLOSED
            for kind, reference in zip(kinds, references, strict=True)
        ]
    )
    measures: Measures = {}
    for name, texts in systems.items():
        pairs = list(zip(texts, golds, strict=True))
        exact = np.array(
            [float(any(normalize(text) == normalize(gold) for gold in several)) for text, several in pairs]
        )
        right = np.array([float(any(is_right(text, gold) for gold in several)) for text, several in pairs])
        words = np.array([max(token_f1(text, gold) for gold in several) for text, several in pairs])
        rows = [("exact match", exact, np.ones(len(pairs)))]
        if closed.any():
            rows.append(("closed answers right", right, closed))
        if not closed.all():
            rows += [("open answers, exact match", exact, ~closed), ("open answers, F1 of words", words, ~closed)]
        measures[name] = [_average(title, scores, chosen) for title, scores, chosen in rows]
    return measures, f"{int(closed.sum())} of {len(references)} answers are closed (yes or no, or a choice)"


def _average(name: str, scores: Array, chosen: Array) -> Measure:
    """The mean over the chosen studies."""
    counts = chosen.astype(np.float64)
    return Measure(name, np.stack([scores * counts, counts], axis=1), mean)
