"""Every number of README, docs/evaluate.md and the demo card is measured, proven by the code, or listed."""

import re
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from launcher import demo
from tests.training.evaluation.claims import CLAIMS, DEMO_REPORTS, NOT_COUNTED, ROOT, find_unproven
from training.evaluation import demo_card
from training.evaluation.documented import PAGE, PARTS, find_part


def read_page(name: str) -> str:
    """What a page says without what a command writes: measured parts, the card's values, and the README's answer.

    That answer is compared by test_wheel.py with the one that the demo model gives.
    """
    if name == "MODEL_CARD.md":
        return re.sub(r"\{[^}]*\}", "", "\n".join([demo_card.CARD, demo_card.PRETRAINED, demo_card.UNTRAINED]))
    text = (ROOT / name).read_text(encoding="utf-8")
    for part in PARTS if name == str(PAGE) else ():
        text = text.replace(find_part(text, part).group(), "")
    return re.sub(r"```json.*?```|<img[^>]*>|\]\([^)]*\)", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("name", CLAIMS)
def test_no_figure_is_unaccounted_for(name: str) -> None:
    """Every number, in digits or in a word, is in a phrase of CLAIMS or NOT_COUNTED; `BLEU-4` has none."""
    text = read_page(name)
    phrases = [*CLAIMS[name], *NOT_COUNTED[name]]
    assert [phrase for phrase in phrases if not phrase or phrase not in " ".join(text.split())] == []
    assert find_unproven(text, phrases) == []


@pytest.mark.parametrize(
    "text",
    ["3 times faster", "about one in ten", "five systems", "Half of them", "twice as fast", "2-4 hosts", "1,024"],
)
def test_a_new_number_is_found(text: str) -> None:
    """In digits, as a range, and as a word."""
    assert find_unproven(f"It is said: {text}.", ["five reports"])
    assert not find_unproven("BLEU-4, float16, COVID-19, none of the others.", [])


def test_the_list_of_published_systems_is_as_long_as_it_says() -> None:
    """As many names follow."""
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = re.search(r"published systems\*\*.*?: (.*?)\. No published", readme)
    assert found
    assert len(re.split(r", | and ", found[1])) == 5


def test_the_demo_asks_for_as_many_reports_as_the_readme_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image over each protocol; no server is started."""
    for name in ("LocalServer", "HttpClient", "GrpcClient", "signal", "sample_radiograph", "as_png"):
        monkeypatch.setattr(demo, name, MagicMock())
    shown = MagicMock()
    monkeypatch.setattr(demo, "_show", shown)
    monkeypatch.setattr(sys, "argv", ["demo", "--store", str(Path())])
    demo.main()
    assert shown.call_count == DEMO_REPORTS
