"""Splits by patient: which studies are trained on, chosen by and tested on."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from training.datasets.study import SPLITS, DatasetError, Study

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Of the patients, where a data set fixes no split."""


def assign_splits(
    studies: Sequence[Study], seed: int, fractions: Mapping[str, float] = FRACTIONS, *, keep_fixed: bool = True
) -> list[Study]:
    """The studies, each with a split; studies of one patient have the same one.

    seed       : another seed gives other splits
    fractions  : of the patients, about, for those whose split the data set does not fix
    keep_fixed : splits that the data set fixes stay, and patients of whom some studies are fixed follow them; False
                 splits everybody anew

    The split of a patient follows from the seed and the patient alone (a hash), so it stays when studies are added,
    removed or reordered, and the sizes are only about as wished.

    Raises DatasetError if the fractions are no shares of one, or if the data set itself puts a patient into two splits.
    """
    if set(fractions) - set(SPLITS) or min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise DatasetError(
            f"the split fractions are {dict(fractions)}; allowed: shares of {', '.join(SPLITS)} that sum to 1"
        )
    fixed = fixed_splits(studies) if keep_fixed else {}
    leaking = [patient for patient, splits in fixed.items() if len(splits) > 1]
    if leaking:
        raise DatasetError(
            f"{len(leaking)} patients are in more than one split, the first is {leaking[0]!r}; "
            "list them with training.validate_data, then mend the data set or split it anew (keep_fixed: false)"
        )
    known = {patient: splits[0] for patient, splits in fixed.items()}
    return [
        replace(study, split=known.get(study.patient_id) or _drawn_split(study.patient_id, seed, fractions))
        for study in studies
    ]


def fixed_splits(studies: Sequence[Study]) -> dict[str, list[str]]:
    """The splits that the data set itself puts each patient into, sorted; patients without any are left out."""
    splits: dict[str, set[str]] = defaultdict(set)
    for study in studies:
        if study.split is not None:
            splits[study.patient_id].add(study.split)
    return {patient: sorted(names) for patient, names in splits.items()}


def _drawn_split(patient_id: str, seed: int, fractions: Mapping[str, float]) -> str:
    digest = hashlib.sha256(f"{seed}:{patient_id}".encode()).digest()
    drawn = int.from_bytes(digest[:8], "big") / 2**64
    # From the smaller splits on: what rounding leaves over is training data.
    for name in ("test", "val"):
        drawn -= fractions.get(name, 0.0)
        if drawn < 0:
            return name
    return "train"
