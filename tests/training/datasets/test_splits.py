"""Splits are by patient and stay when data are added; cleaning does what its name says and nothing unasked."""

from collections import defaultdict

import pytest

from training.datasets.cleaning import STEPS, clean_study
from training.datasets.splits import assign_splits
from training.datasets.study import DatasetError, Study


def study(number: int, patient: str, split: str | None = None, report: str = "Clear.") -> Study:
    """A study without images."""
    return Study(str(number), (), {"report": report}, patient, (), "", split, {})


MANY = [study(i, f"patient {i // 3}") for i in range(3000)]


def test_a_patient_is_in_one_split() -> None:
    """All studies of a patient have one split, and the splits are about as large as wished."""
    splits = defaultdict(set)
    for one in assign_splits(MANY, seed=1):
        splits[one.patient_id].add(one.split)
    assert all(len(names) == 1 for names in splits.values())
    sizes = [sum(names == {name} for names in splits.values()) / 1000 for name in ("train", "val", "test")]
    assert sizes == pytest.approx([0.8, 0.1, 0.1], abs=0.04)


def test_splits_stay_when_studies_come_and_go() -> None:
    """Reversed, halved and with further studies between, every study keeps its split; another seed gives others."""
    known = {one.study_id: one.split for one in assign_splits(MANY, seed=1)}
    further = [study(10_000 + i, f"new {i}") for i in range(500)]
    for changed in (MANY[::-1], MANY[::2], further + MANY):
        assert all(known.get(one.study_id, one.split) == one.split for one in assign_splits(changed, seed=1))
    assert known != {one.study_id: one.split for one in assign_splits(MANY, seed=2)}


def test_fixed_splits_stay_and_draw_their_patients_after_them() -> None:
    """A study without a split goes where the data set puts its patient."""
    fixed = [study(1, "a", "test"), study(2, "a"), study(3, "b", "val"), *MANY]
    splits = assign_splits(fixed, seed=1, fractions={"train": 1.0})
    assert [one.split for one in splits[:3]] == ["test", "test", "val"]
    assert {one.split for one in splits[3:]} == {"train"}


def test_a_data_set_that_leaks_is_refused_made_disjoint_or_drawn() -> None:
    """A patient in two splits is an error; "disjoint" keeps the later split whole, "drawn" splits by patient."""
    leaking = [study(1, "a", "train"), study(2, "a", "test"), study(3, "b", "train"), study(4, "b", "train")]
    with pytest.raises(DatasetError, match=r"1 patients are in more than one split .* dataset.splits=disjoint"):
        assign_splits(leaking, seed=1)
    kept = assign_splits(leaking, seed=1, policy="disjoint")
    assert [(one.study_id, one.split) for one in kept] == [("2", "test"), ("3", "train"), ("4", "train")]
    drawn = assign_splits(leaking, seed=1, policy="drawn")
    assert len(drawn) == 4
    assert drawn[0].split == drawn[1].split


@pytest.mark.parametrize("fractions", [{"train": 0.5}, {"train": 1.2, "val": -0.2}, {"train": 0.9, "dev": 0.1}])
def test_fractions_are_shares_of_the_splits(fractions: dict[str, float]) -> None:
    """They sum to one, none is negative, and every name is known."""
    with pytest.raises(DatasetError, match="shares of train, val, test that sum to 1"):
        assign_splits(MANY, seed=1, fractions=fractions)


@pytest.mark.parametrize(
    ("step", "text", "cleaned"),
    [
        ("whitespace", " No\n effusion. ", "No effusion."),
        ("deidentified", "Comparison XXXX, normal x-XXXX.", "Comparison, normal."),
        ("deidentified", "___ man, [**Name 3**] seen. XX and X-ray stay.", "man, seen. XX and X-ray stay."),
        ("enumeration", "1. No effusion. 2) 3.5 cm nodule.", "No effusion. 3.5 cm nodule."),
        ("lowercase", "No AP View", "no ap view"),
    ],
)
def test_each_step_of_cleaning_does_one_thing(step: str, text: str, cleaned: str) -> None:
    """What is left of one text after one step."""
    assert STEPS[step](text) == cleaned


def test_cleaning_is_off_by_default_and_leaves_no_empty_section() -> None:
    """Without steps a study is as it was; a section of which nothing stays is left out; a wrong step is refused."""
    raw = study(1, "a", report=" 1. XXXX ")
    assert clean_study(raw, ()) == raw
    assert clean_study(raw, ("enumeration",)).sections == {}
    with pytest.raises(DatasetError, match="has 'lower'; allowed: whitespace, deidentified, enumeration, lowercase"):
        clean_study(raw, ("lower",))
