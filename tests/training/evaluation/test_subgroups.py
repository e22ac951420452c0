"""Attributes of studies, as data sets write them."""

from pathlib import Path

import pytest

from training.datasets.study import Study
from training.evaluation.subgroups import describe


@pytest.mark.parametrize(
    ("label", "value", "group"),
    [
        ("age", "018M", "0-17"),
        ("age", "18 months", "0-17"),
        ("age", "047Y", "40-64"),
        ("age", "55.0", "40-64"),
        ("age", "1950-01-01", None),
        ("sex", "Mujer", "female"),
        ("sex", "Hombre", "male"),
        ("sex", "Missing", None),
        ("sex", "M", "male"),
    ],
)
def test_ages_and_sexes_are_read_or_left_out(label: str, value: str, group: str | None) -> None:
    """Months are not years, and a word that is not a sex is not guessed by its first letter."""
    study = Study("s", (Path("a.png"),), {}, None, ("",), "", None, {label: value})
    assert dict(describe(study)).get(label) == group
