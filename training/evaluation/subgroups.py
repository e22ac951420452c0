"""The scores of a system by sex, age band, view and source, where the data set says them."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from training.datasets.study import Study
from training.datasets.values import fold_key
from training.evaluation.metrics.measure import Array, Bootstrap, Measure

SHOWN = ("BLEU-4", "ROUGE-L", "micro F1, 13 findings", "finding group")
"""Measures that are shown for subgroups, where they were computed."""

SMALLEST = 10
"""Studies of a subgroup, at least: an interval of fewer says nothing."""

BANDS = ((18, "0-17"), (40, "18-39"), (65, "40-64"), (200, "65 and over"))
"""First age above the band, and its name."""


_AGE = re.compile(
    r"(\d{1,3})(?:\.\d+)?(?:\s*-\s*\d{1,3})?\s*(y|yrs?|years?|m|mo|months?|w|weeks?|d|days?)?(?: old)?\s*\+?"
)

SEXES = {
    **dict.fromkeys(("m", "male", "man", "hombre", "varon", "masculino", "homme", "mann", "männlich"), "male"),
    **dict.fromkeys(("f", "female", "woman", "mujer", "femenino", "femme", "frau", "w", "weiblich"), "female"),
}
"""What data sets write for the sex, in lower case; anything else is unknown."""


def count_patients(studies: Sequence[Study]) -> int | None:
    """How many patients the studies are of; None where a patient is unknown."""
    patients = {study.patient_id for study in studies}
    return None if None in patients else len(patients)


def score_subgroups(
    studies: Sequence[Study], measures: Mapping[str, Measure], draws: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """By attribute and value: the numbers of studies and patients, and each of SHOWN with its interval over patients.

    A study of an unknown patient counts as one of its own, or with those of its image or article.

    Attributes of one value, and values of fewer than SMALLEST studies, are left out.
    """
    values: dict[str, list[str]] = {}
    for i, study in enumerate(studies):
        for name, value in describe(study):
            values.setdefault(name, [""] * len(studies))[i] = value
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for name, of_study in values.items():
        shown = [value for value, n in sorted(Counter(of_study).items()) if value and n >= SMALLEST]
        if len(shown) > 1:
            masks = {value: np.array([one == value for one in of_study]) for value in shown}
            result[name] = {value: _score(mask, studies, measures, draws) for value, mask in masks.items()}
    return result


def describe(study: Study) -> Iterator[tuple[str, str]]:
    """The attributes that a data set says of a study, as (name, value)."""
    labels = {fold_key(name).removeprefix("patient"): value for name, value in study.labels.items()}
    context = labels.get("context", "")  # ReXrank: Age:50-60.Gender:M.Indication: ...
    sex = labels.get("sex") or labels.get("gender") or _search(r"Gender:\s*(\w+)", context)
    if known := SEXES.get(sex.strip().lower()):
        yield "sex", known
    age = _read_age(labels.get("age", "")) if labels.get("age") else _read_age(_search(r"Age:\s*([^.]*)", context))
    if age is not None:
        yield "age", next((band for end, band in BANDS if age < end), "")
    if study.views and study.views[0]:
        yield "view", study.views[0]
    if source := labels.get("source") or study.source:
        yield "source", source


def _read_age(text: str) -> int | None:
    """Years of `47`, `047Y`, `018M`, `18 months`, `50-60`, `55.0`; None for anything else, such as a date of birth."""
    found = _AGE.fullmatch(text.strip().lower())
    if not found:
        return None
    unit = (found[2] or "y")[0]
    return int(found[1]) if unit == "y" else int(found[1]) // 12 if unit == "m" else 0


def _search(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _score(mask: Array, studies: Sequence[Study], measures: Mapping[str, Measure], draws: int) -> dict[str, Any]:
    bootstrap = Bootstrap([study.unit for study, chosen in zip(studies, mask, strict=True) if chosen], draws)
    figures = {}
    for name in SHOWN:
        if name in measures:
            interval = bootstrap.interval(Measure(name, measures[name].statistics[mask], measures[name].value))
            figures[name] = [round(float(figure), 6) if np.isfinite(figure) else None for figure in interval]
    units = {study.unit for study, chosen in zip(studies, mask, strict=True) if chosen}
    return {"studies": int(mask.sum()), "patients": len(units), "figures": figures}
