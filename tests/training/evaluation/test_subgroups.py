"""Attributes of studies, as data sets write them."""

from pathlib import Path

import pytest

from training.datasets.study import Study
from training.evaluation.metrics.measure import Measure
from training.evaluation.subgroups import describe, score_subgroups
from training.evaluation.table import tabulate_subgroups


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
        ("Patient Gender", "F", "female"),
        ("PatientAge", "071Y", "65 and over"),
    ],
)
def test_ages_and_sexes_are_read_or_left_out(label: str, value: str, group: str | None) -> None:
    """Months are not years, and a word that is not a sex is not guessed by its first letter."""
    study = Study("s", (Path("a.png"),), {}, None, ("",), "", None, {label: value})
    assert dict(describe(study)).get("age" if "age" in label.lower() else "sex") == group


def test_small_groups_are_remarked_on() -> None:
    """30 studies of women are of three patients, 30 of men of 30: only the first are few."""
    studies = [
        Study(f"s{i}", (Path(f"{i}.png"),), {}, f"p{i % 3 if i < 30 else i}", ("",), "", None, {"sex": "FM"[i >= 30]})
        for i in range(60)
    ]
    measures = {"BLEU-4": Measure.of_reports("BLEU-4", [0.5] * 60)}
    groups = score_subgroups(studies, measures, 20)
    assert {value: (row["studies"], row["patients"]) for value, row in groups["sex"].items()} == {
        "female": (30, 3),
        "male": (30, 30),
    }
    [page] = tabulate_subgroups({"system": "m", "subgroups": groups})
    assert "| sex: female | 30 | 3 | 0.500 (0.500 to 0.500) |" in page
    assert page.endswith("have intervals that are too narrow, and of one patient none: sex: female (3).")


def test_groups_of_views_and_sources_are_scored() -> None:
    """Each with the reports of its own; the source is that of the study, or what the data set calls so."""
    studies = [
        Study(
            f"s{i}", (Path(f"{i}.png"),), {}, f"p{i}", (("PA", "AP")[i % 2],), "t", None,
            {"source": ("Oslo", "Lima", "Kyiv")[i % 3]},
        )
        for i in range(60)
    ]  # fmt: skip
    scores = [0.1 * (i % 2) + 0.2 * (i % 3) for i in range(60)]
    groups = score_subgroups(studies, {"BLEU-4": Measure.of_reports("BLEU-4", scores)}, 20)
    found = {name: {value: row["figures"]["BLEU-4"][0] for value, row in of.items()} for name, of in groups.items()}
    assert found["view"] == pytest.approx({"AP": 0.3, "PA": 0.2})
    assert found["source"] == pytest.approx({"Oslo": 0.05, "Lima": 0.25, "Kyiv": 0.45})
    plain = Study("s", (), {}, None, (), "Open-i", None, {})
    assert dict(describe(plain)) == {"source": "Open-i"}
