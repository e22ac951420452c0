"""Answers to questions are right or wrong."""

import pytest

from training.evaluation.metrics.answers import answer_measures, are_questions, is_right, normalize, token_f1


@pytest.mark.parametrize(
    ("text", "reference", "right", "f1"),
    [
        ("Yes", "yes.", True, 1.0),
        ("Yes, there is an effusion.", "Yes", True, 0.4),  # yes there is effusion: 2 x 1 / (4 + 1)
        ("No", "yes", False, 0.0),
        ("The left side", "left side", True, 1.0),
        ("on the left side", "left", False, 0.5),  # on left side: 2 x 1 / (3 + 1)
        ("", "yes", False, 0.0),
        ("", "", True, 1.0),
        ("not seen", "no", False, 0.0),
        ("心影增大", "心影增大", True, 1.0),
        ("Sí, un poco.", "sí un poco", True, 1.0),
        ("effusion effusion effusion", "effusion", False, 0.5),  # 2 x 1 / (3 + 1)
        ("lung " * 5000, "lung " * 5000, True, 1.0),
    ],
)
def test_an_answer_is_right_or_not(text: str, reference: str, right: bool, f1: float) -> None:
    """By SQuAD's rules; yes and no count where an answer begins with them."""
    assert is_right(text, reference) is right
    assert token_f1(text, reference) == pytest.approx(f1)


def test_normalize() -> None:
    """Case, punctuation, articles and white space."""
    assert normalize(" The  Left-sided, an effusion. ") == "leftsided effusion"


def test_measures_of_closed_and_open_answers() -> None:
    """Closed ones by what the data set says, else by yes and no; of several references the best counts."""
    references = ["yes", "left lung", "axial", "no"]
    systems = {"model": ["Yes it is", "left", "axial", "yes"]}
    measures, note = answer_measures(systems, references, [(), ("the left",), (), ()], ["", "", "CLOSED", ""])
    assert note.startswith("3 of 4 answers are closed")
    assert {one.name: pytest.approx(one.score()) for one in measures["model"]} == {
        "exact match": 2 / 4,
        "closed answers right": 2 / 3,
        "open answers, exact match": 1.0,
        "open answers, F1 of words": 1.0,
    }
    names = [one.name for one in answer_measures({"m": ["no"]}, ["yes"], (), [""])[0]["m"]]
    assert names == ["exact match", "closed answers right"]


@pytest.mark.parametrize(
    ("prompts", "answers"),
    [
        (["Is there an effusion?", "Which side", "heart"], True),
        (["Describe the image.", "Write a report."], False),
        (["What do you see?"] * 3, False),  # one prompt for all: its answers are reports
        (["", ""], False),
    ],
)
def test_what_counts_as_questions(prompts: list[str], answers: bool) -> None:
    """Different ones, most of them questions."""
    assert are_questions(prompts) is answers
