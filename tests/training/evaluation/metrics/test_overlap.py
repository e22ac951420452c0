"""Scores are those of the packages that papers use, and follow from sums."""

import random
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from sacrebleu.metrics.bleu import BLEU

from training.datasets.source import Source
from training.evaluation.baselines import best_constant_report
from training.evaluation.data import EvaluationData, read_data
from training.evaluation.metrics.measure import Bootstrap, Measure
from training.evaluation.metrics.meteor import _jar, meteor, meteor_counts
from training.evaluation.metrics.ngrams import best_constant, bleu, bleu_counts, bleu_measures
from training.evaluation.metrics.overlap import coco_measures, rexrank_measures, rouge_scores, sacrebleu_measures
from training.evaluation.metrics.r2gen import UNKNOWN, Protocol, tokens

WORDS = ["heart", "lungs", "clear", "no", "effusion", ".", "the", "are"]


def random_texts(count: int, seed: int) -> list[str]:
    """Texts of 1 to 12 words of a small vocabulary, so that n-grams repeat."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_bleu_is_that_of_pycocoevalcap(seed: int) -> None:
    """Corpus BLEU from summed counts equals pycocoevalcap's on random texts, to the last digits."""
    texts, references = random_texts(30, seed), random_texts(30, seed + 100)
    theirs, _ = Bleu(4).compute_score(
        {i: [text] for i, text in enumerate(references)}, {i: [text] for i, text in enumerate(texts)}, verbose=0
    )
    assert [measure.score() for measure in bleu_measures(texts, references)] == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_constant_is_the_best_of_all(seed: int) -> None:
    """The search by counts finds the candidate that scoring all of them one by one finds."""
    candidates, references = random_texts(40, seed), random_texts(25, seed + 100)

    def score(candidate: str) -> float:
        counts = np.array([bleu_counts(candidate, reference) for reference in references])
        return float(bleu(counts.sum(axis=0), 4))

    assert score(best_constant(candidates, references)) == pytest.approx(max(map(score, candidates)), rel=1e-12)


def test_sacrebleu_from_sums_is_sacrebleu() -> None:
    """Also with orders that have no match at all, which it smooths."""
    texts, references = ["the lungs are clear .", "no"], ["The lungs are not clear.", "effusion"]
    (measures, signatures) = sacrebleu_measures({"ours": texts}, references)
    for (tokenizer, lowercase), measure in zip(
        (("13a", False), ("13a", True), ("none", False)), measures["ours"], strict=True
    ):
        theirs = BLEU(tokenize=tokenizer, lowercase=lowercase).corpus_score(texts, [references]).score
        assert measure.score() == pytest.approx(theirs, rel=1e-9)
    assert "tok:13a|smooth:exp" in signatures[0]


def test_meteor_from_sums_is_that_of_the_jar() -> None:
    """The formula on the jar's counts gives the jar's own scores, of single reports and of all together."""
    pairs = [
        ("heart size is normal . there is no pleural effusion", "the heart is normal in size . no effusion ."),
        ("lungs clear", "the lungs are clear"),
        ("a b c", "a b c"),
        ("nothing alike", "the lungs are clear"),
    ]
    counts = meteor_counts(pairs)
    asked = "EVAL ||| " + " ||| ".join(" ".join(map(str, row)) for row in counts)
    theirs = [float(line) for line in _jar([asked])]
    assert [*meteor(counts), meteor(counts.sum(axis=0))] == pytest.approx(theirs, abs=1e-12)


def test_a_report_against_itself_is_perfect() -> None:
    """Every score of a text that equals its reference is the largest there is."""
    texts = ["the lungs are clear .", "heart size is normal . no effusion .", "there is a small nodule ."]
    scores = {measure.name: measure.score() for measure in coco_measures({"same": texts}, texts)["same"]}
    assert scores.pop("CIDEr") == pytest.approx(10)
    assert scores == pytest.approx(dict.fromkeys(("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L"), 1))
    assert rexrank_measures({"same": texts}, texts)["same"][0].score() == pytest.approx(1)


def test_an_empty_report_scores_nothing() -> None:
    """A system that wrote nothing for a study gets a zero for it and no error."""
    scores = coco_measures({"none": ["", ""]}, ["the lungs are clear .", "no effusion ."])["none"]
    assert all(measure.score() == pytest.approx(0, abs=1e-6) for measure in scores)
    assert rouge_scores([""], ["no effusion"]) == [0]


def test_cleaning_is_that_of_r2gen() -> None:
    """Enumerators and signs go, hyphens stay, a sentence's end is a token."""
    report = '1. Heart-size "normal".. 2. No effusion/pneumothorax [XXXX]; stable. '
    assert tokens(report) == [
        *("heart-size", "normal", ".", "no", "effusionpneumothorax", "xxxx", "stable", "."),
    ]


def test_rare_words_are_unknown_and_long_texts_are_cut() -> None:
    """A word below the count is <unk> also in a reference, and the start token takes one of the places."""
    protocol = Protocol(["Lungs clear."] * 3 + ["Lungs opaque."], min_count=3, max_tokens=3)
    assert protocol("Lungs opaque. Lungs clear.") == f"lungs {UNKNOWN}"


def test_without_training_reports_every_word_is_known() -> None:
    """Predictions alone can be scored, without a vocabulary."""
    assert Protocol([])("Lungs opaque.") == "lungs opaque ."


def test_the_interval_covers() -> None:
    """The 95 % interval of a mean holds the true mean in about 95 of 100 samples, patients having 2 reports each."""
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        of_patient = draw.normal(size=60).repeat(2) + draw.normal(size=120) * 0.1
        patients = [str(i // 2) for i in range(120)]
        _, low, high = Bootstrap(patients, draws=300).interval(Measure.of_reports("x", of_patient))
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_difference_from_itself_is_nothing() -> None:
    """Draws are the same for all systems, so that a difference is paired."""
    measure = Measure.of_reports("x", [0.1, 0.5, 0.9])
    assert Bootstrap(["a", "b", "c"]).difference(measure, measure) == (0, 0, 0)


@pytest.fixture(scope="module")
def iu_xray(shared: Path) -> EvaluationData:
    """R2Gen's split of IU X-Ray."""
    return read_data(Source("r2gen", str(shared / "data/iu_xray/r2gen_annotation.json")), "test")


def test_shared_constant_report_has_the_known_scores(iu_xray: EvaluationData) -> None:
    """The training report with the best BLEU-4 on val, said of all test studies, within .002 of what is known of it."""
    protocol = Protocol(iu_xray.train_texts)
    constant = best_constant_report(iu_xray.train_texts, iu_xray.val_texts, protocol)
    references = [protocol(reference) for reference in iu_xray.references]
    measures = coco_measures({"constant": [protocol(constant)] * len(references)}, references)["constant"]
    known = {"BLEU-1": 0.5, "BLEU-2": 0.338, "BLEU-3": 0.24, "BLEU-4": 0.172}
    known |= {"METEOR": 0.224, "ROUGE-L": 0.363, "CIDEr": 0.285}
    assert {measure.name: measure.score() for measure in measures} == pytest.approx(known, abs=0.002)
    assert (len(iu_xray.train), len(iu_xray.val_texts), len(references)) == (2069, 296, 590)
