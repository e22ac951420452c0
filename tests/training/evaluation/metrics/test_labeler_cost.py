"""The time that labels take grows in proportion to the length of a report, whatever it says."""

import time

import pytest

from prelim.labels.findings import read_findings
from prelim.labels.labeler import MAX_SENTENCE, sentences

MAX_CPU_S = 10.0
"""Some 0.5 s are usual. What is not linear takes minutes."""


@pytest.mark.parametrize(
    "unit", ["no pneumonia or effusion and ", "effusion", "heart is not large, ", "-", "a-", "n't "]
)
def test_no_report_takes_long(unit: str) -> None:
    """5,000 characters in one sentence, of mentions with spaces and without."""
    began = time.process_time()
    read_findings((unit * 5000)[:5000])
    assert time.process_time() - began < MAX_CPU_S


def test_a_long_sentence_is_cut_between_words() -> None:
    """None of its words is lost; a word is cut only where it is longer than a sentence may be."""
    words = [f"word{number}" for number in range(1000)]
    cut = sentences(" ".join(words))
    assert max(map(len, cut)) <= MAX_SENTENCE
    assert " ".join(cut).split() == words
    assert [len(part) for part in sentences("a" * 2500)] == [MAX_SENTENCE, MAX_SENTENCE, 500]


@pytest.mark.parametrize(
    "text", ["Pneumothorax: none.", "Effusions, masses and nodules - none.", "Pneumothorax-like: no"]
)
def test_entries_of_a_list_deny(text: str) -> None:
    """With words and hyphens before the answer."""
    said = read_findings(text)
    assert not [name for name in said if name != "no finding" and said[name].startswith("positive")]
