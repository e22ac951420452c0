"""How far to trust each sentence of a report, calibrated on reports that the model has not been trained on.

A score tells right sentences from wrong ones. A confidence is the share of the wrong sentences of held-out reports that
have a lower score: of the wrong sentences of further such reports, a share of `level` has a confidence below `level`.

Source: split-conformal prediction for one class (Papadopoulos et al., "Inductive Confidence Machines for Regression",
2002; Vovk, "Conditional Validity of Inductive Conformal Predictors", 2012). docs/decisions/0037-confidence.md has the
scores that were compared.
"""

import json
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from prelim.errors import ArchiveError, reason_of
from prelim.generation.hypothesis import Hypothesis

MAKE = "`python -m training.confidence MODEL DATA` makes one"
"""For messages."""

DISTANCE = "distance"
INPUTS = ("surprisal", "largest", "tokens", DISTANCE)
"""What a score can be made of. Surprisal is minus the logarithm of a probability.

surprisal : logarithm of the sum over the tokens of the sentence
largest   : logarithm of that of the least likely token
tokens    : how many
distance  : of the image from those of the training, by the model's gate
"""

_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*|\s*\n\s*")
_SMALLEST = 1e-6

Inputs = Mapping[str, float]


@dataclass(frozen=True)
class Sentence:
    """One sentence of a report, by a model that is calibrated.

    confidence : of `Confidence.of`, 0 to 1
    confirm    : it is below the level of the model, and someone should look
    """

    text: str
    confidence: float
    confirm: bool


@dataclass(frozen=True)
class Confidence:
    """The calibration of one model, confidence.json in its folder and archive.

    model   : sha256 of what was calibrated, see `networks.model_folder.hash_model`
    inputs  : names of INPUTS
    centers, scales, weights : of each input, subtracted, divided by, multiplied with
    wrong   : scores of the wrong sentences, ascending
    """

    model: str
    inputs: tuple[str, ...]
    centers: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    wrong: tuple[float, ...]

    def score(self, inputs: Inputs) -> float:
        """The score of one sentence; larger for one that is rather right."""
        terms = zip(self.inputs, self.centers, self.scales, self.weights, strict=True)
        return math.fsum(weight * (inputs[name] - center) / scale for name, center, scale, weight in terms)

    def of(self, inputs: Inputs) -> float:
        """The confidence of one sentence."""
        return float(self.rank(self.score(inputs)))

    def rank(self, scores: Any) -> Any:
        """The share of wrong sentences with lower scores, between those that were held out by interpolation.

        scores : one, or an array of them
        """
        ranks = np.arange(1, len(self.wrong) + 1) / (len(self.wrong) + 1)
        return np.interp(scores, self.wrong, ranks)

    def sentences(self, read: Sequence[tuple[str, Inputs]], level: float) -> tuple[Sentence, ...]:
        """What is answered of the sentences that `read_sentences` has found.

        level : a confidence below it is to be confirmed
        """
        known = [(text, self.of(inputs)) for text, inputs in read]
        return tuple(Sentence(text, confidence, confirm=confidence < level) for text, confidence in known)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_confidence(path: Path) -> Confidence:
    """Read what `Confidence.write` has written. Raises ArchiveError naming the file if it is not that."""
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{path} cannot be read: {reason_of(error)}; {MAKE}") from error
    names = [field.name for field in fields(Confidence)]
    if not isinstance(contents, dict) or sorted(contents) != sorted(names) or not isinstance(contents["model"], str):
        raise ArchiveError(f"{path} must have {', '.join(names)}; {MAKE}")
    inputs = contents["inputs"]
    if not isinstance(inputs, list) or not inputs or not set(map(str, inputs)) <= set(INPUTS):
        raise ArchiveError(f"{path} has the inputs {inputs!r:.80}; known: {', '.join(INPUTS)}; {MAKE}")
    lists = {name: contents[name] for name in ("centers", "scales", "weights", "wrong")}
    for name, numbers in lists.items():
        if not isinstance(numbers, list) or not all(map(_is_finite, numbers)):
            raise ArchiveError(f"{path}: {name} must be a list of finite numbers; {MAKE}")
        if name != "wrong" and len(numbers) != len(inputs):
            raise ArchiveError(f"{path}: {name} must have a number for each input; {MAKE}")
    if not all(scale > 0 for scale in lists["scales"]):
        raise ArchiveError(f"{path}: scales must be above 0; {MAKE}")
    if not lists["wrong"] or lists["wrong"] != sorted(lists["wrong"]):
        raise ArchiveError(f"{path}: wrong must be ascending and not empty; {MAKE}")
    return Confidence(contents["model"], tuple(inputs), **{name: tuple(numbers) for name, numbers in lists.items()})


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_sentences(
    report: str,
    hypothesis: Hypothesis,
    detokenize: Callable[[Sequence[int]], str],
    distance: float | None,
    written: Sequence[int] | None = None,
) -> list[tuple[str, Inputs]]:
    """The sentences of a report and what their scores are made of.

    report     : the text, a part of that of the tokens
    hypothesis : its tokens and their log-probabilities
    distance   : of its image by the model's gate; None without one
    written    : for each character of the report, where it is in the text of the tokens; None: as it is there

    A token belongs to the sentence that it ends in; those after the last sentence belong to it. Tokens of which the
    report has nothing, of boxes or of reasoning, belong to none.
    """
    ids, counts = hypothesis.token_ids, range(len(hypothesis.token_ids) + 1)
    first = 0 if written is not None else max(detokenize(ids).find(report), 0)
    ends = [(match.start(), match.end()) for match in _END.finditer(report)]
    starts = [0, *(end for _, end in ends)]
    stops = [*(start for start, _ in ends), len(report)]
    spans = [(start, stop) for start, stop in zip(starts, stops, strict=True) if report[start:stop].strip()]

    def length(count: int) -> int:
        return len(detokenize(ids[:count]))

    def reach(place: int) -> int:
        """How many tokens make a text of so many characters."""
        return bisect_left(counts, place, key=length)

    after = [reach(first + stop if written is None else written[stop - 1] + 1) for _, stop in spans[:-1]]
    begin = reach(first) if first else 0
    if written:
        # The token that the first character is of.
        begin = bisect_right(counts, written[0], key=length) - 1
    limits = [begin, *after, len(ids)]
    words = [] if written is None else [place for place, c in zip(written, report, strict=True) if not c.isspace()]
    foreign = set() if written is None else _foreign(ids, detokenize, words)
    found: list[tuple[str, Inputs]] = []
    for (start, stop), begin, end in zip(spans, limits, limits[1:], strict=False):
        own = range(min(begin, len(ids) - 1), min(max(end, begin + 1), len(ids)))
        surprisals = [-hypothesis.logprobs[i] for i in own if i not in foreign]
        inputs = {
            "surprisal": math.log(max(math.fsum(surprisals), 0.0) + _SMALLEST),
            "largest": math.log(max([*surprisals, 0.0]) + _SMALLEST),
            "tokens": float(len(surprisals)),
        }
        if distance is not None:
            inputs[DISTANCE] = distance
        found.append((report[start:stop].strip(), inputs))
    return found


def _foreign(ids: Sequence[int], detokenize: Callable[[Sequence[int]], str], words: Sequence[int]) -> set[int]:
    """Tokens that add text of which the report has nothing but white space.

    words : places of all other characters of the report
    """
    ends = [len(detokenize(ids[:count])) for count in range(len(ids) + 1)]
    return {
        i
        for i, (begin, end) in enumerate(pairwise(ends))
        if begin < end and bisect_left(words, begin) == bisect_left(words, end)
    }
