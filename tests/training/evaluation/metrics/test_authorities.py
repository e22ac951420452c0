"""Each score equals the library that is its authority on odd texts, or says why it is not computed.

fast_bleu, ReXrank's authority, is published as source that needs a compiler, so it is not installed here; the values
are those of its version 0.0.90, with ReXrank's preparation of the texts:

    words = [word for word in text.lower().replace(".", " .").split(" ") if word != ""]
    BLEU([reference_words], {"bigram": (0.5, 0.5)}).get_score([words])["bigram"][0]
"""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from sacrebleu.metrics.bleu import BLEU

from training.evaluation.language import find_language
from training.evaluation.metrics.measure import Measure
from training.evaluation.metrics.meteor import LONGEST, _jar, find_refusal, meteor, meteor_counts
from training.evaluation.metrics.ngrams import bleu_measures
from training.evaluation.metrics.overlap import (
    SACREBLEU,
    cider_scores,
    coco_measures,
    rexrank_bleu,
    rouge_scores,
    sacrebleu,
    sacrebleu_measures,
)
from training.evaluation.metrics.r2gen import Protocol, tokens

ODD = (
    "", " ", "heart", "heart heart", "a a a a a a a a a a", "the lungs are clear .", "a\nb", "a\tb  c", "a\u00a0b",
    "a\u3000b", "a\u2028b", "\x85", "\x00a", "a\rb", "|||", "a ||| b", "%s {} \\", "épanchement pleural", "e\u0301",
    "心影不大", "心 影 不 大", "🙂 no effusion", "שלום", "İ ß", "x" * 5000, "no effusion . " * 800,
)  # fmt: skip
WORDS = tuple(text for text in ODD if text.split())


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("heart", "heart", 0.3162277660168379),
        ("heart", "heart is", 0.11633369384516794),
        ("heart is", "is heart", 0.3162277660168379),
        ("lungs", "heart", 0.0),
        ("a b", "c d", 0.0),
        ("", "", 0.0),
        ("heart", "", 0.0),
        ("", "heart", 0.0),
        ("a a a a", "a", 0.09128709291752769),
        ("a a a a", "a a", 0.408248290463863),
        ("a " * 10000, "a", 3.162435785910914e-05),
        ("a", "a " * 2000, 0.0),
        ("Lungs clear. " * 5000, "lungs clear. " * 5000, 1.0),
        ("clear\nno effusion", "clear no effusion", 0.13562437855552414),
        ("clear\nno effusion", "clear\nno effusion", 1.0),
        ("a\u00a0b", "a b", 0.0),
        ("心影不大", "心影不大", 0.3162277660168379),
        ("心影不大。 肺", "心影不大。", 0.223606797749979),
        ("İ x", "i x", 0.223606797749979),
        ("ß .. .", "ss . . .", 0.7071067811865476),
        ("A_b c", "a b c", 0.13562437855552414),
    ],
)
def test_rexrank_bleu_is_that_of_fast_bleu(text: str, reference: str, score: float) -> None:
    """On one word, empty, repeated, very long and non-English texts."""
    assert rexrank_bleu(text, reference) == pytest.approx(score, rel=1e-12)


def test_rexrank_bleu_is_at_most_1() -> None:
    """Whatever the text: one-word texts were far above it."""
    draw = random.Random(0)
    for _ in range(2000):
        text, reference = (" ".join(draw.choices("ab.", k=draw.randint(0, 5))) for _ in range(2))
        assert 0 <= rexrank_bleu(text, reference) <= 1


def corpora() -> list[tuple[list[str], list[str]]]:
    """Texts and references: each odd text with each odd reference, and 100 mixtures; references have words."""
    draw = random.Random(0)
    pairs = [([text, "the heart"], [reference, "no heart"]) for text in ODD for reference in WORDS]
    sizes = [draw.randint(1, 6) for _ in range(100)]
    return pairs + [(draw.choices(ODD, k=size), draw.choices(WORDS, k=size)) for size in sizes]


def scores(measures: Sequence[Measure]) -> list[float]:
    """The figures."""
    return [measure.score() for measure in measures]


def test_bleu_of_odd_texts_is_that_of_pycocoevalcap() -> None:
    """Corpus BLEU-1 to 4."""
    for texts, references in corpora():
        theirs, _ = Bleu(4).compute_score(
            {i: [text] for i, text in enumerate(references)}, {i: [text] for i, text in enumerate(texts)}, verbose=0
        )
        assert scores(bleu_measures(texts, references)) == pytest.approx(theirs, rel=1e-9, abs=1e-18)


def test_rouge_and_cider_of_odd_texts_are_those_of_pycocoevalcap() -> None:
    """Both are scores of pycocoevalcap; this tests its input: texts in their order, each with its reference."""
    draw = random.Random(1)
    for _ in range(30):
        texts, references = draw.choices(ODD[:-1], k=5), draw.choices(WORDS[:-1], k=5)
        gold, said = ({i: [text] for i, text in enumerate(side)} for side in (references, texts))
        rouge = [Rouge().calc_score(said[i], gold[i]) for i in gold]
        assert rouge_scores(texts, references).tolist() == rouge
        cider = Cider().compute_score(gold, said)[1]
        assert cider_scores(texts, [[reference] for reference in references]).tolist() == cider.tolist()


SEVERAL = (
    ("no effusion . heart normal .", "the heart is normal .", ["no effusion is seen .", "heart normal ."]),
    ("the lungs are clear .", "lungs clear .", []),
    ("small left effusion", "effusion", ["small effusion on the left side", "left pleural effusion , small"]),
    ("", "no effusion .", ["clear ."]),
)
"""Text, reference and further references."""


def test_several_references_are_compared_as_the_libraries_do() -> None:
    """BLEU, ROUGE-L and CIDEr of pycocoevalcap, sacreBLEU, and METEOR's choice of the best reference."""
    texts, references, further = (list(column) for column in zip(*SEVERAL, strict=True))
    gold = {i: [reference, *others] for i, (_, reference, others) in enumerate(SEVERAL)}
    said = {i: [text] for i, text in enumerate(texts)}
    measures = {one.name: one.score() for one in coco_measures({"ours": texts}, references, further)["ours"]}
    bleu, _ = Bleu(4).compute_score(gold, said, verbose=0)
    assert [measures[f"BLEU-{order}"] for order in range(1, 5)] == pytest.approx(bleu, rel=1e-9)
    assert measures["ROUGE-L"] == pytest.approx(Rouge().compute_score(gold, said)[0])
    assert measures["CIDEr"] == pytest.approx(Cider().compute_score(gold, said)[0])
    best = [
        max(float(meteor(meteor_counts([(text, one)]).sum(axis=0))) for one in [reference, *others])
        for text, reference, others in SEVERAL
    ]
    together = [float(meteor(row)) for row in meteor_counts([(t, r, *f) for t, r, f in SEVERAL])]
    assert together == pytest.approx(best)
    found, signatures = sacrebleu_measures({"ours": texts}, references, "en", further)
    streams = [[gold[i][k] if k < len(gold[i]) else None for i in gold] for k in range(3)]
    assert found["ours"][0].score() == pytest.approx(BLEU(tokenize="13a").corpus_score(texts, streams).score)
    assert all("nrefs:var" in signature for signature in signatures)


def test_cider_of_references_without_words_is_0() -> None:
    """The library fails on them."""
    assert cider_scores(["heart", ""], [[""], [" "]]).tolist() == [0, 0]


@pytest.mark.parametrize("language", ["en", "es", "zh", "ja"])
@pytest.mark.filterwarnings("error")
def test_sacrebleu_of_odd_texts_is_sacrebleu(language: str) -> None:
    """Also with the tokenizers of languages without spaces."""
    for texts, references in corpora()[::7]:
        measures, _ = sacrebleu_measures({"ours": texts}, references, language)
        for measure in measures["ours"]:
            title = measure.name.removeprefix("sacreBLEU ")
            tokenizer, lowercase = SACREBLEU.get(title, (title, False))
            theirs = BLEU(tokenize=tokenizer, lowercase=lowercase).corpus_score(texts, [references]).score
            assert measure.score() == pytest.approx(theirs, rel=1e-9, abs=1e-12)


def test_chinese_is_split_into_characters() -> None:
    """By sacrebleu's own tokenizer, and by R2Gen's protocol; a sentence is not one word."""
    measures, signatures = sacrebleu_measures({"ours": ["心影不大"]}, ["心影略大"], "zh")
    assert [measure.name for measure in measures["ours"]] == ["sacreBLEU zh"]
    assert "tok:zh" in signatures[0]
    assert tokens("心影不大，肺野清晰。无积液（右）。") == [*"心影不大肺野清晰", ".", *"无积液右", "."]


def test_accents_are_kept() -> None:
    """A year is not another word, and a composed letter is its decomposed twin."""
    assert tokens("Silueta cardíaca normal, 1 año.") == ["silueta", "cardíaca", "normal", "1", "año", "."]
    assert tokens("an\u0303o") == tokens("año")
    assert Protocol(["Derrame pleural, año"] * 3)("DERRAME PLEURAL, AÑO") == "derrame pleural año ."


@pytest.mark.parametrize("text", ["", "  ", "...", "?!"])
def test_a_report_without_words_is_empty(text: str) -> None:
    """Its full stop would match that of every reference."""
    assert tokens(text) == []


@pytest.mark.slow
def test_meteor_of_odd_texts_is_that_of_the_jar() -> None:
    """The formula on the counts of each pair gives the jar's own score, all are finite, and lines stay lines."""
    short = [text for text in ODD if len(text) < 100]
    pairs = [(text, reference) for text in short for reference in short[::3]]
    counts = meteor_counts(pairs)
    theirs = [float(line) for line in _jar(["EVAL ||| " + " ||| ".join(" ".join(map(str, row)) for row in counts)])]
    assert [*meteor(counts), meteor(counts.sum(axis=0))] == pytest.approx(theirs, abs=1e-12)
    assert len(counts) == len(pairs)


def test_meteor_is_refused_where_it_means_nothing_or_takes_hours() -> None:
    """Its linguistic resources are English; texts that are long and repeat themselves take minutes each."""
    assert find_refusal("en", ["heart", ""]) is None
    assert find_refusal("en", ["a " * LONGEST]) is None
    assert "501 words" in str(find_refusal("en", ["a " * (LONGEST + 1)]))
    assert "the references are not" in str(find_refusal("es", ["corazón"]))
    without = coco_measures({"ours": ["a"]}, ["a"], with_meteor=False)["ours"]
    assert [measure.name for measure in without] == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]


def test_a_short_english_report_is_english() -> None:
    """Its Latin words look French without a prior; a short Spanish or French one stays what it is."""
    assert find_language(["No pleural effusion or pneumothorax."]) == "en"
    assert find_language(["Normal chest."]) == "en"
    assert find_language(["Silueta cardiaca normal"]) == "es"
    assert find_language(["Pas d'epanchement pleural"]) == "fr"
    assert find_language(["心影不大"]) == "zh"


def test_sacrebleu_of_nothing_is_0() -> None:
    """Sums of no report at all, as in an empty bootstrap draw."""
    assert sacrebleu(np.zeros(10)) == 0
