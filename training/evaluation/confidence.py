"""Fits a model's confidence to held-out reports, and measures how well it finds wrong sentences.

A logistic model of few inputs scores sentences. It is fitted on the sentences of some patients and scores those of
others, five parts in turn, so that the scores of wrong sentences are those of sentences that it has not seen.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from prelim.generation.confidence import DISTANCE, INPUTS, Confidence, Inputs
from prelim.labels.labeler import NO_FINDING, Labeler, State
from training.datasets.study import DatasetError
from training.datasets.templates import LabelReader, Labels
from training.evaluation.input_gate import area
from training.evaluation.metrics.template_captions import right_group

FEWEST = 30
"""Wrong sentences, and right ones, that a calibration needs."""

LEVEL = 0.9
"""Share of wrong sentences at which figures are told."""

SPLITS, DRAWS, PARTS = 200, 1000, 5
RIDGE = 1.0
"""Weight of the squares of the standardized weights; 1 is a normal prior of variance 1."""

TRIVIAL = ("mean log-probability", "length")

IsWrong = Callable[[str], bool | None]
"""Sentence -> whether its findings are wrong; None for one without findings."""


def by_template(reader: LabelReader, true: Labels) -> IsWrong:
    """For captions of templates: the finding group is that of the picture, and modality and anatomy with it."""
    return lambda sentence: not right_group(reader.read(sentence)[0], true)


def by_labeler(labeler: Labeler, reference: str) -> IsWrong:
    """For reports: a finding is wrong if the reference denies it or is silent, its absence if the reference has it."""
    true = labeler.read(reference)

    def wrong(sentence: str) -> bool | None:
        said = {finding: state for finding, state in labeler.read(sentence).items() if finding != NO_FINDING}
        wrongly_there = any(
            s is State.POSITIVE and true.get(f, State.NEGATIVE) is State.NEGATIVE for f, s in said.items()
        )
        wrongly_absent = any(s is State.NEGATIVE and true.get(f) is State.POSITIVE for f, s in said.items())
        return wrongly_there or wrongly_absent if said else None

    return wrong


class Sentences:
    """Sentences of held-out reports.

    read  : inputs of each
    wrong : whether its findings are wrong
    units : whose it is
    """

    def __init__(self, read: Sequence[Inputs], wrong: Sequence[bool], units: Sequence[str]) -> None:
        self.inputs = tuple(name for name in INPUTS if all(name in inputs for inputs in read))
        self.values = np.array([[inputs[name] for name in self.inputs] for inputs in read]).reshape(len(read), -1)
        self.wrong = np.array(wrong, dtype=bool)
        self.patients, self.owner = np.unique(np.array(units), return_inverse=True)

    def check(self) -> None:
        """Raise DatasetError for too few sentences to calibrate with."""
        for what, count in (("wrong", int(self.wrong.sum())), ("right", int((~self.wrong).sum()))):
            if count < FEWEST:
                raise DatasetError(f"{count} sentences are {what}; a calibration needs at least {FEWEST} of these")
        if (owners := len(set(self.owner[self.wrong]))) < 2 * PARTS:
            raise DatasetError(
                f"the wrong sentences are of {owners} patients; a calibration needs {2 * PARTS} of these"
            )


def fit(sentences: Sentences, chosen: np.ndarray, model: str = "") -> Confidence:
    """The calibration by some of the sentences.

    chosen : which, indices
    model  : of Confidence
    """
    scores = _score_unseen(sentences, chosen)
    centers, scales, weights = _regress(sentences, chosen)
    wrong = sorted(scores[sentences.wrong[chosen]].tolist())
    return Confidence(model, sentences.inputs, tuple(centers), tuple(scales), tuple(weights), tuple(wrong))


def _score_unseen(sentences: Sentences, chosen: np.ndarray) -> np.ndarray:
    """The score of each chosen sentence by a model of other patients' sentences."""
    part = np.random.default_rng(0).permutation(len(sentences.patients)) % PARTS
    own = part[sentences.owner[chosen]]
    scores = np.zeros(len(chosen))
    for number in range(PARTS):
        model = _regress(sentences, chosen[own != number])
        scores[own == number] = _score(sentences.values[chosen[own == number]], *model)
    return scores


def _score(values: np.ndarray, centers: Any, scales: Any, weights: Any) -> np.ndarray:
    """The scores of sentences with these inputs, shape (sentences, inputs)."""
    scores: np.ndarray = ((values - centers) / scales) @ weights
    return scores


def _regress(sentences: Sentences, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centers, scales and weights of a logistic model of right sentences, by Newton's method."""
    values, right = sentences.values[chosen], ~sentences.wrong[chosen]
    centers, scales = values.mean(axis=0), values.std(axis=0) + 1e-9
    design = np.c_[np.ones(len(values)), (values - centers) / scales]
    prior = RIDGE * np.eye(design.shape[1])
    prior[0, 0] = 1e-6  # the rate of right sentences is free
    weights = np.zeros(design.shape[1])
    for _ in range(25):
        likely = (1 + np.tanh(design @ weights / 2)) / 2
        slope = design.T @ (likely - right) + prior @ weights
        weights -= np.linalg.solve((design * (likely * (1 - likely))[:, None]).T @ design + prior, slope)
    return centers, scales, weights[1:]


def measure(sentences: Sentences, mean_logprobs: Sequence[float]) -> dict[str, Any]:
    """Coverage over halvings of the patients, and how well scores tell right sentences from wrong ones."""
    wrong, everything = sentences.wrong, np.arange(len(sentences.wrong))
    scores = {
        "confidence": _score_unseen(sentences, everything),
        TRIVIAL[0]: np.array(mean_logprobs),
        TRIVIAL[1]: -sentences.values[:, sentences.inputs.index("tokens")],
    }
    random = np.random.default_rng(0)
    areas: dict[str, list[float]] = {name: [] for name in scores}
    members = [np.flatnonzero(sentences.owner == i) for i in range(len(sentences.patients))]
    while len(areas["confidence"]) < DRAWS:
        drawn = np.concatenate([members[i] for i in random.integers(0, len(members), len(members))])
        if 0 < wrong[drawn].sum() < len(drawn):
            for name, values in scores.items():
                areas[name].append(area(-values[drawn][~wrong[drawn]], -values[drawn][wrong[drawn]]))
    better = np.subtract(areas["confidence"], areas[TRIVIAL[0]])
    return {
        "sentences": len(wrong),
        "wrong": int(wrong.sum()),
        "patients": len(sentences.patients),
        "inputs": list(sentences.inputs),
        "level": LEVEL,
        "areas": {
            name: [area(-values[~wrong], -values[wrong]), *_interval(areas[name])] for name, values in scores.items()
        },
        "better": [float(better.mean()), *_interval(better)],
        **_halve(sentences, random),
    }


def _interval(values: Sequence[float] | np.ndarray) -> list[float]:
    """Where 95 % of them are."""
    return [float(value) for value in np.quantile(values, [0.025, 0.975])]


def _halve(sentences: Sentences, random: np.random.Generator) -> dict[str, Any]:
    """Shares of wrong and of right sentences below the level, calibrated on half of the patients, on the others."""
    shares: dict[str, list[float]] = {"flagged_wrong": [], "flagged_right": []}
    count = len(sentences.patients)
    while len(shares["flagged_wrong"]) < SPLITS:
        half = (random.permutation(count) < count // 2)[sentences.owner]
        if not sentences.wrong[half].any() or not sentences.wrong[~half].any():
            continue
        calibration = fit(sentences, np.flatnonzero(half))
        scores = _score(sentences.values[~half], calibration.centers, calibration.scales, calibration.weights)
        flagged, wrong = calibration.rank(scores) < LEVEL, sentences.wrong[~half]
        shares["flagged_wrong"].append(float(flagged[wrong].mean()))
        shares["flagged_right"].append(float(flagged[~wrong].mean()))
    return {"splits": SPLITS, **{name: [float(np.mean(s)), *_interval(s)] for name, s in shares.items()}}


def markdown(measured: Mapping[str, Any] | None) -> str:
    """The section of a model card; None: the model is not calibrated."""
    if measured is None:
        return "This model is not calibrated: its answers have no confidence."
    distance = ", and the image's distance of the input gate" if DISTANCE in measured["inputs"] else ""
    lines = [
        "Each sentence has a confidence: the share of wrong sentences of held-out reports that have a lower score. A "
        f"sentence below {measured['level']:.0%} (`confirm_below` in model.yaml) has `confirm: true`. The score is a "
        "logistic model of the log-probabilities of the sentence's tokens (sum, smallest), their number"
        f"{distance}.",
        f"Measured on {measured['sentences']} sentences of {measured['patients']} patients that it was not trained on, "
        f"{measured['wrong']} of them wrong, by its own default options. Calibrated on half of the patients, "
        f"{_share(measured['flagged_wrong'])} of the wrong sentences of the others are to be confirmed, and "
        f"{_share(measured['flagged_right'])} of the right ones (mean of {measured['splits']} halvings, and where 95 % "
        "of them are).",
        "",
        "| score | area under ROC, wrong against right | 95 % interval |",
        "|---|---|---|",
        *(f"| {name} | {a:.3f} | {low:.3f} to {high:.3f} |" for name, (a, low, high) in measured["areas"].items()),
        "",
        "The area of confidence is larger than that of the mean log-probability by "
        "{:+.3f} ({:+.3f} to {:+.3f}).".format(*measured["better"]),
        "A sentence of high confidence can be wrong. On images of other sources the shares are others.",
    ]
    return "\n".join(lines)


def _share(values: Sequence[float]) -> str:
    mean, low, high = values
    return f"{mean:.1%} ({low:.1%} to {high:.1%})"


def mean_logprob(inputs: Inputs) -> float:
    """Mean log-probability of the tokens of a sentence."""
    return -math.exp(inputs["surprisal"]) / inputs["tokens"]
