"""Scores at their edges: nothing to compare, lists of unequal lengths, words right next to each other."""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prelim.labels.labeler import _cut_out_clause, _Phrases
from tests.training.conftest import CAPTIONS, LABELS
from training.evaluation.metrics import meteor as meteor_program
from training.evaluation.metrics import optional
from training.evaluation.metrics.answers import answer_measures, are_questions
from training.evaluation.metrics.coverage import simulate
from training.evaluation.metrics.f1 import f1_interval, hits, share_interval
from training.evaluation.metrics.measure import Bootstrap, Measure
from training.evaluation.metrics.meteor import LONGEST, _jar, find_refusal, meteor_counts
from training.evaluation.metrics.ngrams import bleu, bleu_counts, bleu_measures, gather_references
from training.evaluation.metrics.optional import extra_measures
from training.evaluation.metrics.overlap import (
    coco_measures,
    rexrank_bleu,
    rexrank_measures,
    rouge_scores,
    sacrebleu_measures,
)
from training.evaluation.metrics.r2gen import tokens
from training.evaluation.metrics.template_captions import TemplateScorer


def template_scorer(count: int) -> TemplateScorer:
    """A scorer of so many pictures, each with its own labels and caption."""
    studies: list[Any] = [
        SimpleNamespace(labels=labels._asdict(), text=lambda _, caption=captions[0]: caption)
        for labels, captions in zip(LABELS[:count], CAPTIONS, strict=False)
    ]
    return TemplateScorer(dict(zip(LABELS, CAPTIONS, strict=True)), studies, studies)


@pytest.mark.parametrize(
    "score",
    [
        lambda: hits([{"a"}], [{"a"}, {"b"}], ["a"]),
        lambda: gather_references(["a"], [["b"], ["c"]]),
        lambda: bleu_measures(["a"], ["a", "b"]),
        lambda: rouge_scores(["a"], ["a", "b"]),
        lambda: coco_measures({"s": ["a"]}, ["a", "b"], with_meteor=False),
        lambda: sacrebleu_measures({"s": ["a"]}, ["a", "b"]),
        lambda: rexrank_measures({"s": ["a"]}, ["a", "b"]),
        lambda: template_scorer(2).measures({"s": [""]}),
        lambda: template_scorer(1).measures({"s": ["", ""]}),
        lambda: template_scorer(2).counts([""]),
        lambda: optional._chexbert_scores(SimpleNamespace(get_label=lambda _: [1]), ["a"], ["a", "b"]),
        lambda: answer_measures({"s": ["a"]}, ["a"], (), ["", ""]),
        lambda: answer_measures({"s": ["a", "b"]}, ["a"], (), [""]),
    ],
)
def test_lists_of_unequal_lengths(score: Callable[[], Any]) -> None:
    """A report without a reference is never left out in silence."""
    with pytest.raises(ValueError, match=r"zip\(\)"):
        score()


def test_bleu_of_hardly_anything() -> None:
    """What pycocoevalcap adds to counts keeps it a number: 0 of nothing, 1e-6 for each missing order of one word."""
    nothing = np.zeros(10)
    assert [float(bleu(nothing, order)) for order in range(1, 5)] == [0, 0, 0, 0]
    one = np.array(bleu_counts("a", "a"), dtype=float)
    assert [float(bleu(one, order)) for order in range(1, 4)] == pytest.approx([1, 1e-3, 1e-4], rel=1e-6)
    assert float(bleu(np.array(bleu_counts("", "a"), dtype=float), 1)) == 0
    assert bleu_counts("a b", "a", "a b c")[:2] == [2, 1], "of two that are equally close the shorter counts"
    assert bleu_counts("a a", "a", "a a b b")[2 + 4] == 2, "as often as one of the references has it"


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("", "a", 0),
        ("b", "a", 0),
        ("a", "a", 0.1**0.5),
        ("a b", "a b", 1),
        ("a b", "a b c d", np.exp(-1)),
        ("a b c d", "a b", (2 / 4 * 1 / 3) ** 0.5),
        ("A.", "a .", 1),
        ("a  b", "a b", 1),
    ],
)
def test_rexrank_of_few_words(text: str, reference: str, score: float) -> None:
    """A tenth of a pair where none matches; no penalty for a longer text."""
    assert rexrank_bleu(text, reference) == pytest.approx(score)


@pytest.mark.parametrize(
    ("language", "words", "refused"), [("en", 500, False), ("", 3, False), ("en", 501, True), ("de", 3, True)]
)
def test_where_meteor_is_left_out(language: str, words: int, refused: bool) -> None:
    """Texts that are not English, and those of more than 500 words."""
    assert LONGEST == 500
    assert (find_refusal(language, ["a", "a " * words]) is not None) == refused
    assert find_refusal("en", []) is None


def test_counts_of_meteor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair is asked once, references before the text; a text that is its reference has no chunk."""
    asked: list[list[str]] = []

    def jar(lines: list[str]) -> list[str]:
        asked.append(list(lines))
        rows = np.zeros((len(lines), 23), dtype=int)
        rows[:, 0:2], rows[:, 20], rows[:, 21:23] = [4, 4], 1, [4, 4]
        rows[1, 20] = 2
        rows[2, 21] = 3
        return [" ".join(map(str, row)) for row in rows]

    monkeypatch.setattr(meteor_program, "_jar", jar)
    pairs = [("t", "r"), ("u", "r", "s"), ("t", "r"), ("v", "r")]
    counts = meteor_counts(pairs)
    assert asked == [["SCORE ||| r ||| t", "SCORE ||| r ||| s ||| u", "SCORE ||| r ||| v"]]
    assert counts.shape == (4, 23)
    assert counts[:, 20].tolist() == [0, 2, 0, 1]
    assert counts[:, 21].tolist() == [4, 4, 4, 3]


@pytest.mark.parametrize(
    ("sentence", "found"),
    [("xab", 1), ("abcd", 1), ("cdab", 1), ("cd ab cd", 1), ("abab", 2), ("bcdab", 1), ("aba", 0)],
)
def test_mentions_next_to_other_words(sentence: str, found: int) -> None:
    """Letters in common make a mention another word; those before and after it do not."""
    phrases = _Phrases(re.compile("ab"), re.compile("cd|aba$"))
    assert len(list(phrases.places(sentence))) == found
    assert len(list(_Phrases(re.compile("ab"), None).places(sentence))) >= found


@pytest.mark.parametrize(
    ("sentence", "before", "after"),
    [
        ("one, two, M three, four, five", ", ", " three"),
        ("one two M three", "one two ", " three"),
        ("M", "", ""),
        (",M,", ",", ""),
        ("a , b M", ", b ", ""),
    ],
)
def test_the_words_around_a_mention(sentence: str, before: str, after: str) -> None:
    """From the last end before it to the first after it."""
    match = re.search("M", sentence)
    assert match is not None
    cut = _cut_out_clause(sentence, match, re.compile(","), re.compile("M"))
    assert cut == (before, after)


def test_wilsons_interval_by_hand() -> None:
    """Of 2 right, 1 wrong and 1 missed: the proportion 1/2 of 4, z = 1.96, mapped to 2J / (1 + J)."""
    z2 = 1.959964**2
    center, half = (2 + z2 / 2) / (4 + z2), 1.959964 / (4 + z2) * (2 * 2 / 4 + z2 / 4) ** 0.5
    low, high = center - half, center + half
    assert f1_interval(2, 1, 1) == pytest.approx((2 / 3, 2 * low / (1 + low), 2 * high / (1 + high)))
    assert f1_interval(0, 3, 0)[:2] == (0, 0)
    assert f1_interval(0, 0, 0) == (0, 0, 1)


@pytest.mark.parametrize("error", [OSError, ImportError])
def test_a_learned_metric_whose_weights_are_missing(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """Its remark has the reason."""

    def fail(*_: object, **__: object) -> None:
        raise error("no weights")

    fake = ModuleType("f1chexbert")
    fake.F1CheXbert = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "f1chexbert", fake)
    monkeypatch.setattr(optional, "find_spec", lambda _: object())
    measures, (remark,) = extra_measures(["chexbert"], {"s": ["a"]}, ["b"])
    assert measures == {"s": []}
    assert remark.startswith("CheXbert F1, by report was not computed: it needs chexbert.pth")
    assert remark.endswith("could not load: no weights")


def test_shares_are_between_0_and_1() -> None:
    """Also their limits, whatever rounding does to them; only of nothing are both ends open."""
    for total in range(1, 400):
        none, every = share_interval(0, total), share_interval(total, total)
        assert none.value == 0 <= none.low < none.high < 1
        assert every.value == 1 >= every.high > every.low > 0
        assert (none.high, none.low) == pytest.approx((1 - every.low, 1 - every.high), abs=1e-12)
    assert share_interval(0, 0) == (0, 0, 1)


@pytest.mark.parametrize(
    ("further", "signature"), [((), "nrefs:1"), ([["c"], ["d"]], "nrefs:2"), ([["c"], []], "nrefs:var")]
)
def test_number_of_references_in_a_signature(further: list[list[str]], signature: str) -> None:
    """It varies where two studies have different numbers."""
    for one in sacrebleu_measures({"s": ["a", "b"]}, ["a", "b"], "en", further)[1]:
        assert f"|{signature}|" in f"|{one.split(': ')[1]}|"


def test_a_jar_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has printed until then is not a score; its answers are read as UTF-8."""
    monkeypatch.setattr(meteor_program, "jar_command", lambda: (["sh", "-c", "cat; exit 3"], Path()))
    with pytest.raises(subprocess.CalledProcessError):
        _jar(["1 2"])
    monkeypatch.setattr(meteor_program, "jar_command", lambda: (["cat"], Path()))
    assert _jar(["å 1", "2"]) == ["å 1", "2"]


@pytest.mark.parametrize(
    ("prompts", "answers"), [(["Is it?", "Heart"], False), (["Is it?", "Is it?", ""], False), (["Is it?", "Why"], True)]
)
def test_most_prompts_are_questions(prompts: list[str], answers: bool) -> None:
    """Half of them are not most, and two that are the same are one."""
    assert are_questions(prompts) is answers


def test_open_answers_alone() -> None:
    """No closed one, no row of them."""
    (measures, note) = answer_measures({"s": ["left lung"]}, ["left"], (), [""])
    assert {one.name: one.score() for one in measures["s"]} == {
        "exact match": 0,
        "open answers, exact match": 0,
        "open answers, F1 of words": pytest.approx(2 / 3),
    }
    assert note.startswith("0 of 1 answers are closed")


def test_two_patients_have_an_interval() -> None:
    """One has none; a measure is printed without its statistics, which may be long."""
    measure = Measure.of_reports("x", [0, 1])
    assert Bootstrap(["a", "b"]).interval(measure) == (0.5, 0, 1)
    assert np.isnan(Bootstrap(["a", "a"]).interval(measure)[1:]).all()
    assert "statistics" not in repr(measure)


def test_defaults_of_the_simulation() -> None:
    """Those of the table in docs/evaluate.md."""
    defaults = inspect.signature(simulate).parameters
    assert {name: one.default for name, one in defaults.items()} == {
        "positives": (5, 10, 20, 40), "sets": 2000, "draws": 500,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [("1" + "." * 8 + " y", "y ."), ("1" + "." * 9 + " y", "1 . y ."), ("a 1.. y", "a y ."), ("a 1. y", "a y .")],
)
def test_dots_are_halved_three_times(text: str, words: str) -> None:
    """As R2Gen does: up to eight become one, and the number before it that of a list."""
    assert " ".join(tokens(text)) == words
