"""What a data set is made of: studies, images, views and labels by split, and the gray levels of its images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.datasets.checks.image_facts import BINS, ImageFacts
from training.datasets.checks.texts import spread
from training.datasets.study import SPLITS, Study

MOST_VALUES = 40
"""A label with more values than this tells studies apart, not kinds of them."""


def describe_counts(studies: Sequence[Study]) -> dict[str, dict[str, int]]:
    """Studies, patients and images of every split."""
    counts = {}
    for split in splits_of(studies):
        chosen = [study for study in studies if study.split == split]
        counts[split] = {
            "studies": len(chosen),
            "patients": len({study.patient_id for study in chosen if study.patient_id is not None}),
            "patient_unknown": sum(study.patient_id is None for study in chosen),
            "images": len({image for study in chosen for image in study.images}),
            "studies_without_image": sum(not study.images and study.features is None for study in chosen),
            "with_features": sum(study.features is not None for study in chosen),
        }
    return counts


def splits_of(studies: Sequence[Study]) -> list[str]:
    """The splits that there are, in their usual order."""
    return [split for split in SPLITS if any(study.split == split for study in studies)]


def describe_balance(studies: Sequence[Study]) -> dict[str, dict[str, dict[str, int]]]:
    """Counts by label, value and split: of `view` (images) and of every label with few values (studies)."""
    tables: dict[str, dict[str, Counter[str]]] = {"view": {}, "source": {}}
    for study in studies:
        split = str(study.split)
        for view in study.views:
            tables["view"].setdefault(view or "(not said)", Counter())[split] += 1
        for name, value in {**study.labels, "source": study.source}.items():
            if name != "view":
                tables.setdefault(name, {}).setdefault(value or "(not said)", Counter())[split] += 1
    return {
        name: dict(sorted(((value, dict(counts)) for value, counts in values.items()), key=_total))
        for name, values in tables.items()
        if 1 <= len(values) <= MOST_VALUES
    }


def _total(row: tuple[str, Mapping[str, int]]) -> tuple[int, str]:
    return -sum(row[1].values()), row[0]


def describe_pixels(facts: Sequence[ImageFacts]) -> dict[str, Any]:
    """Sizes, gray levels and what the reader warned of, over the intact images."""
    intact = [fact for fact in facts if fact.state == "intact"]
    sizes = [fact.size for fact in intact if fact.size]
    histograms = [fact.histogram for fact in intact if fact.histogram is not None]
    mean = np.mean(histograms, axis=0) if histograms else np.zeros(BINS)
    return {
        "intact": len(intact),
        "rows": spread([rows for rows, _ in sizes]),
        "columns": spread([columns for _, columns in sizes]),
        "sizes": Counter(f"{rows} x {columns}" for rows, columns in sizes).most_common(5),
        "mean": spread([fact.mean for fact in intact if fact.mean is not None]),
        "std": spread([fact.std for fact in intact if fact.std is not None]),
        "histogram": [round(float(value), 6) for value in mean],
        "warnings": dict(Counter(warning for fact in intact for warning in fact.warnings)),
    }
