"""Every metric has the value that a hand computes; intervals have the level that they state."""

import math
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest

from prelim.labels.labeler import FINDINGS, LABELS, NO_FINDING, Labeler, State
from tests.training.conftest import LABELS as COMBINATIONS
from training.datasets.templates import Labels
from training.evaluation.metrics import meteor as meteor_program
from training.evaluation.metrics import optional
from training.evaluation.metrics.clinical import FIVE, GROUPS, clinical_measures, describe_absent, label_counts
from training.evaluation.metrics.f1 import f1, hits, macro_f1, micro_f1
from training.evaluation.metrics.labeler_check import markdown, read_gold
from training.evaluation.metrics.measure import Bootstrap, Measure, mean
from training.evaluation.metrics.meteor import _one_line, meteor, meteor_counts
from training.evaluation.metrics.ngrams import best_constant, bleu, bleu_counts, ngram_counts
from training.evaluation.metrics.optional import EXTRAS, extra_measures
from training.evaluation.metrics.overlap import (
    cider_scores,
    rexrank_measures,
    rouge_scores,
    sacrebleu,
    sacrebleu_measures,
)
from training.evaluation.metrics.perplexity import perplexity, perplexity_measure
from training.evaluation.metrics.r2gen import Protocol, tokens
from training.evaluation.metrics.template_captions import COMMON, MEASURES, right_group, right_place


def test_labels_without_a_reference_are_said() -> None:
    """Macro F1 counts them as 0."""
    assert describe_absent({"edema": 2, "fracture": 1}) == ""
    assert describe_absent({"edema": 2, "fracture": 0}).endswith("here 1 of 2: fracture")


def test_mean_is_a_sum_over_a_number() -> None:
    """Of none it is NaN, without a warning."""
    assert mean(np.array([6.0, 4.0])) == 1.5
    assert math.isnan(mean(np.array([0.0, 0.0])))
    assert Measure.of_reports("x", [1, 2, 6]).score() == 3


def test_interval_holds_the_middle_95_percent() -> None:
    """Of one draw of patients in 40 the mean lies below the interval, and of one above: quantiles of the draws."""
    values = np.random.default_rng(1).normal(size=40)
    times = np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), size=2000)
    draws = np.sort(times @ values / 40)

    value, low, high = Bootstrap([f"{i:02}" for i in range(40)]).interval(Measure.of_reports("x", values))

    assert value == pytest.approx(values.mean())
    assert np.mean(draws < low) == pytest.approx(0.025, abs=0.001)
    assert np.mean(draws > high) == pytest.approx(0.025, abs=0.001)
    assert (low, high) == pytest.approx(np.quantile(draws, [0.025, 0.975])), "2000 draws, the same each time"
    # The normal interval of a mean: 1.96 standard errors to each side.
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / math.sqrt(40), rel=0.06)


def test_patients_are_drawn_whole() -> None:
    """Two reports of one patient that cancel each other leave no uncertainty, whatever their order."""
    measure = Measure.of_reports("x", [1, 5, 5, 1, 2, 4])

    assert Bootstrap(["a", "b", "a", "b", "c", "c"]).interval(measure) == (3, 3, 3)
    assert Bootstrap(["a", "a", "b", "b", "c", "c"], draws=10).interval(measure) == (3, 3, 3)
    value, *limits = Bootstrap(["a"] * 6).interval(measure)
    assert value == 3
    assert np.isnan(limits).all()


def test_a_difference_is_signed_and_paired() -> None:
    """A system that is one better on every report is exactly one better."""
    first, second = Measure.of_reports("x", [2, 4, 9]), Measure.of_reports("y", [1, 3, 8])

    assert Bootstrap(["a", "b", "c"]).difference(first, second) == pytest.approx((1, 1, 1))
    assert Bootstrap(["a", "b", "c"]).difference(second, first) == pytest.approx((-1, -1, -1))


def test_hits_by_hand() -> None:
    """Right, wrong and missed, in this order."""
    counts = hits([{"a", "b"}, set()], [{"b"}, {"a"}], ["a", "b", "c"])

    assert counts.tolist() == [[[0, 1, 0], [1, 0, 0], [0, 0, 0]], [[0, 0, 1], [0, 0, 0], [0, 0, 0]]]
    assert f1(np.array([3.0, 1.0, 2.0])) == pytest.approx(6 / 9)
    assert f1(np.array([[0.0, 0, 0], [0, 1, 0], [0.5, 0, 0]])).tolist() == [0, 0, 1]
    assert micro_f1("m", counts).score() == pytest.approx(2 / 4)
    assert macro_f1("m", counts).score() == pytest.approx((0 + 1 + 0) / 3)


def test_clinical_groups() -> None:
    """The 13 findings without "no finding", CheXpert's five, and all 14; micro and macro of each."""
    references = ["Left pleural effusion.", "Lungs are clear.", "Cardiomegaly. Rib fracture."]
    said = ["Left pleural effusion. Pneumothorax.", "Lungs are clear.", "Rib fracture."]
    groups, single = clinical_measures({"s": said}, references)

    scores = {measure.name: measure.score() for measure in groups["s"]}
    assert scores == pytest.approx({
        "micro F1, 13 findings": 4 / 6, "macro F1, 13 findings": 2 / 13,
        "micro F1, 5 findings": 2 / 3, "macro F1, 5 findings": 1 / 5,
        "micro F1, 14 labels": 6 / 8, "macro F1, 14 labels": 3 / 14,
    })  # fmt: skip
    assert {m.name: m.score() for m in single["s"]} == dict.fromkeys(LABELS, 0) | {
        NO_FINDING: 1, "pleural effusion": 1, "fracture": 1,
    }  # fmt: skip
    assert label_counts(references) == dict.fromkeys(LABELS, 0) | {
        NO_FINDING: 1, "pleural effusion": 1, "cardiomegaly": 1, "fracture": 1,
    }  # fmt: skip
    assert (len(FINDINGS), len(LABELS), len(FIVE), list(GROUPS)) == (
        13,
        14,
        5,
        ["13 findings", "5 findings", "14 labels"],
    )


@pytest.mark.parametrize(
    ("report", "finding", "state"),
    [
        ("No effusion but pneumothorax.", "pneumothorax", State.POSITIVE),
        ("Edema however no pneumothorax.", "edema", State.POSITIVE),
        ("There is edema but no other abnormality is not seen.", "edema", State.POSITIVE),
        ("Pneumothorax but fracture is not seen.", "pneumothorax", State.POSITIVE),
        ("No edema but effusion but pneumothorax.", "pneumothorax", State.POSITIVE),
        ("Possible edema. Edema.", "edema", State.POSITIVE),
        ("Edema. Possible edema. No edema.", "edema", State.POSITIVE),
        ("No edema. Possible edema.", "edema", State.UNCERTAIN),
        ("Heart size is increased.", "cardiomegaly", State.POSITIVE),
        ("Heart size is not increased.", "cardiomegaly", State.NEGATIVE),
    ],
)
def test_clauses_and_several_statements(report: str, finding: str, state: State) -> None:
    """A negation reaches no further than its clause, and of several statements the largest counts."""
    assert Labeler().read(report)[finding] == state


def test_bleu_by_hand() -> None:
    """Clipped matches of each order, geometric mean, brevity penalty exp(1 - r / c) (Papineni et al., 2002)."""
    counts = bleu_counts("the the the cat sat", "the cat sat on the mat")

    assert counts == [5, 6, 5, 4, 3, 2, 4, 2, 1, 0]
    totals = np.array(counts, dtype=float)
    penalty = math.exp(1 - 6 / 5)
    assert bleu(totals, 1) == pytest.approx(4 / 5 * penalty)
    assert bleu(totals, 2) == pytest.approx(math.sqrt(4 / 5 * 2 / 4) * penalty)
    assert bleu(totals, 3) == pytest.approx((4 / 5 * 2 / 4 * 1 / 3) ** (1 / 3) * penalty)
    assert bleu(totals, 4) == pytest.approx(0, abs=1e-3)
    longer = np.array(bleu_counts("a b c d e f", "a b c d e"), dtype=float)
    assert bleu(longer, 1) == pytest.approx(5 / 6), "no penalty for a longer text"
    assert ngram_counts(["a", "b", "a", "b"])[("a", "b")] == 2
    assert sum(ngram_counts(["a", "b", "c", "d", "e"]).values()) == 5 + 4 + 3 + 2


def test_best_constant_of_many_references() -> None:
    """What is kept of an n-gram is as long as its count in one reference, however many references have it."""
    references = ["the lungs are clear today"] * 200 + ["a small effusion is there"]
    assert best_constant(reversed(references), references) == references[0]


def test_sacrebleu_by_hand() -> None:
    """The k-th order without a match counts as 1 / 2 ** k of one (exponential smoothing)."""
    smoothed = np.array([5.0, 6, 5, 4, 3, 2, 4, 2, 0, 0])
    expected = 100 * math.exp(1 - 6 / 5) * (4 / 5 * 2 / 4 * 0.5 / 3 * 0.25 / 2) ** 0.25
    assert sacrebleu(smoothed) == pytest.approx(expected)
    assert sacrebleu(np.array([3.0, 3, 3, 2, 1, 0, 3, 2, 1, 0])) == 0, "no 4-gram at all"
    assert sacrebleu(np.array([4.0, 4, 4, 3, 2, 1, 0, 0, 0, 0])) == 0
    assert sacrebleu(np.array([4.0, 4, 4, 3, 2, 1, 4, 3, 2, 1])) == pytest.approx(100)
    measures, signatures = sacrebleu_measures({"s": ["The lungs are all clear"]}, ["the lungs are all clear"])
    assert [measure.name for measure in measures["s"]] == ["sacreBLEU 13a", "sacreBLEU 13a -lc", "sacreBLEU none"]
    assert measures["s"][1].score() == pytest.approx(100)
    assert measures["s"][0].score() < 100
    assert ["case:lc" in signature for signature in signatures] == [False, True, False]
    assert ["tok:13a" in signature for signature in signatures] == [True, True, False]


def test_rexrank_by_hand() -> None:
    """BLEU-2 by report, full stops apart; a shared word without a shared pair counts a tenth of a pair."""
    same = rexrank_measures({"s": ["Lungs clear.", "nothing"]}, ["lungs clear.", "lungs"])["s"][0]
    assert same.name == "ReXrank BLEU-2"
    assert same.score() == pytest.approx(0.5, abs=1e-6)
    smoothed = rexrank_measures({"s": ["a b c"]}, ["a x y"])["s"][0]
    assert smoothed.score() == pytest.approx(math.sqrt(1 / 3 * 0.1 / 2), rel=1e-6)


def test_rouge_and_cider_by_hand() -> None:
    """ROUGE-L of a common subsequence: (1 + b^2) P R / (R + b^2 P) with b = 1.2; CIDEr of an equal text is 10."""
    precision, recall = 2 / 3, 2 / 4
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_scores(["a x b"], ["a b c d"]) == pytest.approx([expected])
    texts = ["a b c d e", "f g h i j", "k l m n o"]
    assert cider_scores(texts, [[text] for text in texts]) == pytest.approx([10] * 3)
    assert cider_scores(["f g h i j", *texts[1:]], [[text] for text in texts])[0] == 0


def test_meteor_by_hand() -> None:
    """Denkowski and Lavie, 2014: weights .75 and .25 of words, .85 of recall, .6 (chunks / matches)^.2."""
    counts = np.zeros(23)
    counts[0:4] = [12, 15, 4, 5]  # lengths of text and reference, and the function words among them
    counts[4:8] = [2, 3, 1, 2]  # exact: content words of text and reference, function words of each
    counts[8:12] = [1, 2, 0, 1]  # by stem
    counts[12:16] = [1, 1, 1, 0]  # by synonym
    counts[16:20] = [0, 2, 1, 1]  # by paraphrase
    counts[20:23] = [3, 7, 9]
    weights = (1.0, 0.6, 0.8, 0.6)
    content, function = ((2, 1, 1, 0), (3, 2, 1, 2)), ((1, 0, 1, 1), (2, 1, 0, 1))
    of_text, of_reference = (
        sum(w * (0.75 * c + 0.25 * f) for w, c, f in zip(weights, content[side], function[side], strict=True))
        for side in (0, 1)
    )
    precision, recall = of_text / (0.75 * 8 + 0.25 * 4), of_reference / (0.75 * 10 + 0.25 * 5)
    f_mean = 1 / (0.15 / precision + 0.85 / recall)

    assert meteor(counts) == pytest.approx(f_mean * (1 - 0.6 * (3 / 8) ** 0.2))
    assert meteor(np.array([counts, 2 * counts])) == pytest.approx([meteor(counts)] * 2), "each by itself"
    assert meteor(np.zeros(23)) == 0
    assert meteor_counts([]).shape == (0, 23)
    assert _one_line(" a ||| b\nc ") == "a b c"


@pytest.mark.parametrize("spec", [None, ModuleSpec("pycocoevalcap", None)])
def test_meteor_needs_its_jar(monkeypatch: pytest.MonkeyPatch, spec: ModuleSpec | None) -> None:
    """Without the package, or with a module of that name, the error says what is needed; with it the jar is there."""
    command, folder = meteor_program.jar_command()
    assert (folder / command[command.index("-jar") + 1]).is_file()
    monkeypatch.setattr(meteor_program, "find_spec", lambda _: spec)
    with pytest.raises(ModuleNotFoundError, match="METEOR needs pycocoevalcap"):
        meteor_program.jar_command()


@dataclass
class Likelihoods:
    """What teacher forcing gives."""

    nats: tuple[float, ...]
    tokens: tuple[int, ...]


def test_perplexity_by_hand() -> None:
    """exp(nats / tokens) over all references."""
    by_token = perplexity_measure(Likelihoods((4.0, 2.0), (3, 1)))

    assert (by_token.name, by_token.score()) == ("perplexity, token", pytest.approx(math.exp(6 / 4)))
    assert perplexity(np.array([1e6, 1.0])) == math.inf


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ("A. B", "a . b ."),
        ("One.... Two", "one . two ."),
        ("1. One 2. Two 5. Five 6. Six", "one . two . five 6 . six ."),
        ("Seen. 3. Three", "seen . three ."),
        ("a-b c/d", "a-b cd ."),
    ],
)
def test_cleaning_of_r2gen(report: str, words: str) -> None:
    """Numbers 1 to 5 of a list go, dots collapse, and each sentence ends with one."""
    assert " ".join(tokens(report)) == words


def test_r2gen_protocol_has_its_defaults() -> None:
    """Words of at least three training reports are known, and 59 tokens are scored."""
    protocol = Protocol(["known"] * 3 + ["rare"] * 2)

    assert protocol("known rare") == "known <unk> ."
    assert len(Protocol([])("a " * 100).split()) == 59


class Scorer:
    """Replaces each package of a learned metric."""

    def __init__(self, *_: object, **given: object) -> None:
        self.given = given

    def __call__(self, *texts: object, **named: object) -> tuple[object, ...]:
        """RadGraph's and GREEN's call."""
        if named:
            assert (named["hyps"], named["refs"]) == (["said"], ["true"])
            return 0.1, [0.25], 0.3, 0.4
        assert texts == (["true"], ["said"])
        return 0.1, 0.2, [0.75]

    def get_label(self, text: str) -> list[int]:
        """CheXbert's labels: one of two is right, and none is missed."""
        return {"said": [1, 1, 0], "true": [1, 0, 0]}[text]

    def compute_score(self, texts: list[str], references: list[str]) -> list[float]:
        """RaTEScore's call."""
        assert (texts, references) == (["said"], ["true"])
        return [0.5]


def test_learned_metrics_are_asked_as_their_packages_want(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments go in the packages' order, and a score for every report comes out."""
    for module, name in (
        ("radgraph", "F1RadGraph"), ("f1chexbert", "F1CheXbert"), ("RaTEScore", "RaTEScore"), ("green_score", "GREEN"),
    ):  # fmt: skip
        fake = ModuleType(module)
        setattr(fake, name, Scorer)
        monkeypatch.setitem(sys.modules, module, fake)
    monkeypatch.setattr(optional, "find_spec", lambda _: object())

    measures, lacking = extra_measures(list(EXTRAS), {"ours": ["said"]}, ["true"])

    assert lacking == []
    assert {measure.name: measure.score() for measure in measures["ours"]} == {
        "RadGraph F1": 0.25,
        "CheXbert F1, by report": pytest.approx(2 / 3),
        "RaTEScore": 0.5,
        "GREEN": 0.75,
    }
    assert optional._chexbert_scores(type("None", (), {"get_label": lambda _, t: [0]})(), ["a"], ["b"]) == [0]


def test_a_learned_metric_that_is_not_there_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that is missing, or the weights that could not be loaded; the others are computed."""
    monkeypatch.setattr(optional, "find_spec", lambda name: None if name == "radgraph" else object())
    broken = ModuleType("green_score")
    monkeypatch.setitem(sys.modules, "green_score", broken)
    broken.GREEN = lambda *_, **__: (_ for _ in ()).throw(OSError("no network"))  # type: ignore[attr-defined]

    measures, lacking = extra_measures(["radgraph", "green"], {"ours": ["said"]}, ["true"])

    assert measures == {"ours": []}
    assert lacking[0].startswith(
        "RadGraph F1 was not computed: package radgraph is not installed; it also needs Stanford"
    )
    assert lacking[1].startswith("GREEN was not computed: it needs StanfordAIMI/GREEN")
    assert lacking[1].endswith("could not load: no network")


def test_measures_of_labels_by_hand() -> None:
    """Each measure is stricter than the one before it, except that groups ignore the view."""
    true = Labels("radiograph", "chest", "frontal", "COVID-19")
    said = [
        true,
        true._replace(finding="viral pneumonia"),
        true._replace(view="lateral"),
        true._replace(anatomy="knee"),
        true._replace(modality="CT"),
        true._replace(finding="normal"),
    ]

    assert {name: sum(measure(one, true) for one in said) for name, measure in MEASURES.items()} == {
        "modality_anatomy": 4,
        "modality_anatomy_view": 3,
        "finding_group": 3,
        "all_labels": 1,
    }
    assert (right_place(said[4], true), right_group(said[1], true)) == (False, True)
    assert COMMON == 20
    assert len(COMBINATIONS) > 1


def test_gold_labels_are_read(tmp_path) -> None:
    """Columns with a 1; masses and nodules are one finding."""
    path = tmp_path / "gold.csv"
    path.write_text("filename,Mass,Nodule,Pleural_Thickening,Edema\na,1,0,0,1\nb,0,1,1,0\nc,0,0,0,0\n")

    assert read_gold(path) == {
        "a": {"Mass", "Mass or nodule", "Edema"},
        "b": {"Nodule", "Mass or nodule", "Pleural_Thickening", "Pleural thickening"},
        "c": frozenset(),
    }


def test_table_of_the_labeler() -> None:
    """One row a finding; those that are only similar are in italics."""
    part = {"positive": 3, "precision": 0.5, "recall": 0.25, "f1": [0.4, 0.3, 0.5]}
    row = {"gold": "Edema", "label": "edema", "same": True, "all": part, "development": part, "held_out": part}

    lines = markdown([row, row | {"same": False}]).splitlines()

    figure = "0.400 (0.300 to 0.500), n = 3"
    assert lines[2] == f"| Edema | edema | 0.500 | 0.250 | {figure} | {figure} | {figure} |"
    assert lines[3].startswith("| *Edema* |")
