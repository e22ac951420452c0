"""Fits an input gate to the features of training images, and measures what it refuses.

Source of the limit: split-conformal prediction (Papadopoulos et al., "Inductive Confidence Machines for Regression",
2002): the chance that an image like those of the validation is refused is at most the rate that was asked for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from prelim.encoding.gate import Gate
from training.datasets.study import DatasetError

RATES = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
"""False refusals at which the ROC is told."""

MAX_BYTES = 2_000_000
"""Of a gate."""

RANK = 128
"""Directions, at most."""

SPLITS = 200
"""Halvings of the validation images for the estimate of false refusals."""


def fit(features: np.ndarray, encoder: bytes) -> Gate:
    """The gate of these training images, with a limit of 1.

    features : shape (images, width), pooled
    encoder  : see hash_encoder

    Raises DatasetError for fewer than two images.
    """
    count, width = features.shape
    if count < 2:
        raise DatasetError(f"there are features of {count} training images; a gate needs at least two")
    mean = features.mean(axis=0, dtype=np.float64)
    centered = features - mean
    rank = max(1, min(RANK, MAX_BYTES // (2 * width) - 8, (count - 1) // 2, width - 1))
    variances, vectors = np.linalg.eigh(centered.T @ centered / (count - 1))
    first, others = slice(None, -rank - 1, -1), variances[: max(1, width - rank)]
    # A direction in which nothing varied, such as a dead channel, would make any difference infinite.
    smallest = 1e-6 * float(variances[-1]) or 1.0
    deviations = np.sqrt(np.maximum(variances[first], smallest))
    rest = np.sqrt(max(float(others.mean()), smallest))
    return Gate(
        mean=mean.astype(np.float32),
        directions=vectors[:, first].T.astype(np.float16),
        deviations=deviations.astype(np.float32),
        rest=np.array([rest], dtype=np.float32),
        limit=np.ones(1, dtype=np.float32),
        encoder=np.frombuffer(encoder, dtype=np.uint8).copy(),
    )


def find_limit(distances: np.ndarray, rate: float) -> float:
    """The distance that a further image of the same kind exceeds with a chance of at most `rate`.

    Raises DatasetError for too few distances for this rate.
    """
    rank = math.ceil((len(distances) + 1) * (1 - rate))
    if rank > len(distances):
        raise DatasetError(
            f"{len(distances)} validation images are too few for a false-refusal rate of {rate:.2%}; "
            f"{_needed(rate)} are needed"
        )
    return float(np.sort(distances)[rank - 1])


def _needed(rate: float) -> int:
    """How many images a limit for this rate needs."""
    return math.ceil(1 / rate) - 1


def set_limit(gate: Gate, features: np.ndarray, rate: float) -> Gate:
    """The gate with the limit that refuses `rate` of images like these."""
    limit = find_limit(gate.distance(features), rate) * float(gate.limit[0])
    return replace(gate, limit=np.array([limit], dtype=np.float32))


def estimate_false_refusals(distances: np.ndarray, units: Sequence[str], rate: float) -> dict[str, float] | None:
    """How many images are refused that had no part in the limit: set on half of the patients, tried on the others.

    units   : whose image each is
    returns : None where half of the images are too few for this rate
    """
    names = sorted(set(units))
    owner = np.searchsorted(names, units)
    random = np.random.default_rng(0)
    refused = []
    for _ in range(SPLITS):
        half = random.permutation(len(names)) < len(names) // 2
        used = half[owner]
        if used.sum() < _needed(rate) or used.all():
            return None
        refused.append(float((distances[~used] > find_limit(distances[used], rate)).mean()))
    low, high = np.quantile(refused, [0.025, 0.975])
    return {"mean": float(np.mean(refused)), "low": float(low), "high": float(high), "splits": SPLITS}


def area(inside: np.ndarray, outside: np.ndarray) -> float:
    """Area under the ROC: how often an image from outside is farther away than one from inside."""
    place = np.searchsorted(np.sort(inside), outside, side="left") + np.searchsorted(
        np.sort(inside), outside, side="right"
    )
    return float(place.mean() / (2 * len(inside)))


def describe_kind(inside: np.ndarray, outside: np.ndarray) -> dict[str, Any]:
    """How many images of one kind are refused, and at other limits would be.

    inside  : distances of validation images
    outside : distances of the kind, in units of the limit
    """
    limits = [float(np.quantile(inside, 1 - rate, method="higher")) for rate in RATES]
    return {
        "images": len(outside),
        "refused": float((outside > 1).mean()),
        "area": area(inside, outside),
        "roc": [float((outside > limit).mean()) for limit in limits],
    }


def leave_out(
    train: tuple[np.ndarray, Sequence[str]], val: tuple[np.ndarray, Sequence[str]], rate: float, smallest: int
) -> dict[str, dict[str, Any]]:
    """For each kind of picture, how much of it is refused by a gate that was fitted and set without it.

    train, val : features and kind of each image
    smallest   : validation images that a kind must have
    """
    (features, kinds), (val_features, val_kinds) = train, val
    of_train, of_val = np.array(kinds), np.array(val_kinds)
    result = {}
    for kind in sorted(set(val_kinds)):
        without, left = of_val != kind, of_val == kind
        if left.sum() < smallest or not without.any():
            continue
        gate = set_limit(fit(features[of_train != kind], bytes(32)), val_features[without], rate)
        inside, outside = gate.distance(val_features[without]), gate.distance(val_features[left])
        result[kind] = describe_kind(inside, outside)
    return result


def markdown(measured: Mapping[str, Any]) -> str:
    """The section of a model card: what the gate is, and what it refuses."""
    false, rate = measured["false_refusals"], measured["rate"]
    lines = [
        "An image unlike those of the training is refused with 422 `UnlikeTraining` (`input.unlike_training` in "
        "model.yaml: a warning, or nothing). The measure is the Mahalanobis distance of its mean features from those "
        f"of {measured['train']} training images, in {measured['rank']} directions and the rest; the gate has "
        f"{measured['bytes'] / 1e6:.2f} MB.",
        f"The limit is set for {rate:.1%} false refusals on {measured['val']} validation images. "
        + (
            f"With the limit set on half of the patients, {false['mean']:.2%} of the images of the others are refused "
            f"({false['low']:.2%} to {false['high']:.2%} in 95 % of {false['splits']} halvings)."
            if false
            else "They are too few to measure on one half what a limit of the other half refuses."
        ),
        "",
        "| images | number | refused | area under ROC | " + " | ".join(f"at {rate:.1%}" for rate in RATES) + " |",
        "|---" * (4 + len(RATES)) + "|",
    ]
    for title, kinds in measured["kinds"].items():
        lines.append("| **" + title + "** |" + " |" * (3 + len(RATES)))
        lines += [_row(name, kind) for name, kind in kinds.items()]
    return "\n".join(
        [
            *lines,
            "",
            '"Refused" is with the limit of the gate, "at" with limits for other rates of false refusals: the ROC. A '
            "kind that is left out was in neither the statistics nor the limit, but the encoder has learned from it.",
        ]
    )


def _row(name: str, kind: Mapping[str, Any]) -> str:
    cells = [str(kind["images"]), f"{kind['refused']:.1%}", f"{kind['area']:.3f}", *(f"{x:.1%}" for x in kind["roc"])]
    return f"| {name} | {' | '.join(cells)} |"
