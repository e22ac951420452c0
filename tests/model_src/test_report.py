"""A report: its sections, and where its text ends."""

import pytest

from prelim.generation.text_stages import cut_at_stop
from prelim.report import sections


@pytest.mark.parametrize(
    ("text", "findings", "impression"),
    [
        ("no headings at all", None, None),
        ("Findings: clear lungs. Impression: normal chest.", "clear lungs.", "normal chest."),
        ("IMPRESSION : normal", None, "normal"),
        ("findings: a findings: b", "a", None),
    ],
)
def test_sections_are_found_by_their_headings(text: str, findings: str | None, impression: str | None) -> None:
    """Sections are what follows their heading; without a heading there is none."""
    assert sections(text) == (findings, impression)


def test_text_is_cut_before_the_first_stop() -> None:
    """What a stop text ends is the text before it."""
    assert cut_at_stop("clear lungs ### doctor: ###", ("doctor", "###")) == "clear lungs"
    assert cut_at_stop("clear lungs", ("###",)) == "clear lungs"
