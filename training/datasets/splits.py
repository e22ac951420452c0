"""Splits by patient: which studies are trained on, used to choose weights, and tested on."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from training.datasets.study import SPLITS, DatasetError, Study

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
"""Of the patients, where a data set fixes no split."""

POLICIES = ("fixed", "disjoint", "drawn")
"""What `dataset.splits` allows, see `assign_splits`."""


def assign_splits(
    studies: Sequence[Study], seed: int, fractions: Mapping[str, float] = FRACTIONS, policy: str = "fixed"
) -> list[Study]:
    """The studies, each with a split; studies of one patient (or group, see Study.unit) have the same one.

    seed      : another seed gives other splits
    fractions : of the patients, approximately, for those whose split the data set does not fix
    policy    : "fixed": splits of the data set are kept, and patients of whom some studies have one follow them;
                "disjoint": likewise, but studies of patients who are also in a later split (train, val, test) are left
                out, so that published validation and test sets stay whole;
                "drawn": splits of the data set are ignored

    The split of a patient follows from the seed and the patient alone (a hash), so it stays when studies are added,
    removed or reordered, and the sizes are only approximate.

    Raises DatasetError if the fractions are not shares of one, and, with "fixed", if the data set itself puts a patient
    into two splits.
    """
    if set(fractions) - set(SPLITS) or min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        raise DatasetError(
            f"the split fractions are {dict(fractions)}; allowed: shares of {', '.join(SPLITS)} that sum to 1"
        )
    fixed = {} if policy == "drawn" else find_fixed_splits(studies)
    leaking = [unit for unit, splits in fixed.items() if len(splits) > 1]
    if leaking and policy == "fixed":
        raise DatasetError(
            f"{len(leaking)} patients are in more than one split of the data set, the first is {leaking[0]!r}; "
            "dataset.splits=disjoint keeps its test and validation sets and leaves these patients out of training; "
            "dataset.splits=drawn splits all patients by dataset.split_seed (settings of a training, or of the file of "
            "--config). training.validate_data lists them"
        )
    # The last of several splits wins: a test set is worth more than a few studies to train on.
    homes = {unit: splits[-1] for unit, splits in fixed.items()}
    result = []
    for study in studies:
        home = homes.get(study.unit) or _draw_split(study.unit, seed, fractions)
        if policy == "drawn" or study.split in (None, home):
            result.append(replace(study, split=home))
    return result


def find_fixed_splits(studies: Sequence[Study]) -> dict[str, list[str]]:
    """The splits that the data set itself puts each patient or group into, in the order of SPLITS."""
    splits: dict[str, set[str]] = defaultdict(set)
    for study in studies:
        if study.split is not None:
            splits[study.unit].add(study.split)
    return {unit: sorted(names, key=SPLITS.index) for unit, names in splits.items()}


def _draw_split(unit: str, seed: int, fractions: Mapping[str, float]) -> str:
    digest = hashlib.sha256(f"{seed}:{unit}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    # Smaller splits first: what rounding leaves over is training data.
    for name in ("test", "val"):
        place -= fractions.get(name, 0.0)
        if place < 0:
            return name
    return "train"
