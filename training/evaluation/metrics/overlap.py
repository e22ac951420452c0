"""Scores of shared words: R2Gen's protocol by pycocoevalcap, sacrebleu, and ReXrank's BLEU-2, for several systems."""

from collections.abc import Mapping, Sequence

import numpy as np

from training.evaluation.metrics.measure import Array, Measure
from training.evaluation.metrics.meteor import meteor_counts, meteor_measure
from training.evaluation.metrics.ngrams import ORDERS, bleu, bleu_counts, bleu_measures

Systems = Mapping[str, Sequence[str]]
"""The reports of every system, in the order of the references."""

Measures = dict[str, list[Measure]]
"""The measures of every system."""


def coco_measures(systems: Systems, references: Sequence[str]) -> Measures:
    """BLEU-1 to 4, METEOR, ROUGE-L and CIDEr of texts that a protocol has tokenised.

    BLEU and METEOR are of the whole corpus, ROUGE-L and CIDEr means over reports, as pycocoevalcap has them.
    """
    pairs = [pair for texts in systems.values() for pair in zip(texts, references, strict=True)]
    meteor = dict(zip(pairs, meteor_counts(pairs), strict=True))
    measures = {}
    for name, texts in systems.items():
        counts = np.array([meteor[pair] for pair in zip(texts, references, strict=True)])
        measures[name] = [
            *bleu_measures(texts, references),
            meteor_measure(counts),
            Measure.of_reports("ROUGE-L", rouge_scores(texts, references)),
            Measure.of_reports("CIDEr", cider_scores(texts, [[reference] for reference in references])),
        ]
    return measures


def rouge_scores(texts: Sequence[str], references: Sequence[str]) -> Array:
    """ROUGE-L of each text by pycocoevalcap: the F-measure with recall weighted by 1.2 squared."""
    from pycocoevalcap.rouge.rouge import Rouge

    scorer = Rouge()
    return np.array([scorer.calc_score([text], [gold]) for text, gold in zip(texts, references, strict=True)])


def cider_scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
    """CIDEr of each text by pycocoevalcap (Vedantam et al., CVPR 2015); 10 is a text equal to its only reference.

    Document frequencies are those of the references given, also in every bootstrap draw.
    """
    from pycocoevalcap.cider.cider import Cider

    gold = {i: list(texts) for i, texts in enumerate(references)}
    _, scores = Cider().compute_score(gold, {i: [text] for i, text in enumerate(texts)})
    return np.asarray(scores, dtype=np.float64)


SACREBLEU = {"13a": ("13a", False), "13a -lc": ("13a", True), "none": ("none", False)}
"""Tokenizer, and whether case is ignored."""


def sacrebleu_measures(systems: Systems, references: Sequence[str]) -> tuple[Measures, list[str]]:
    """Sacrebleu's BLEU of the uncleaned texts, 0 to 100, and its signatures, by which others can repeat it."""
    from sacrebleu.metrics.bleu import BLEU

    measures: Measures = {name: [] for name in systems}
    signatures = []
    for title, (tokenizer, lowercase) in SACREBLEU.items():
        scorer = BLEU(tokenize=tokenizer, lowercase=lowercase)
        for name, texts in systems.items():
            counts = []
            for text, reference in zip(texts, references, strict=True):
                score = scorer.corpus_score([text], [[reference]])
                counts.append([score.sys_len, score.ref_len, *score.totals, *score.counts])
            statistics = np.array(counts, dtype=np.float64)
            measures[name].append(Measure(f"sacreBLEU {title}", statistics, sacrebleu))
        signatures.append(f"sacreBLEU {title}: {scorer.get_signature()}")
    return measures, signatures


def sacrebleu(totals: Array) -> Array:
    """BLEU with sacrebleu's exponential smoothing, 0 to 100, from sums of counts laid out as for `ngrams.bleu`."""
    length, reference_length = totals[..., 0], totals[..., 1]
    guessed, matching = totals[..., 2 : 2 + ORDERS], totals[..., 2 + ORDERS :]
    none = matching == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        smoothed = np.where(none, 0.5 ** none.cumsum(axis=-1), matching) / guessed
        precision = np.exp(np.log(smoothed).mean(axis=-1))
        penalty = np.exp(np.minimum(0.0, 1 - reference_length / length))
    empty = none.all(axis=-1) | (guessed == 0).any(axis=-1)
    return np.where(empty, 0.0, 100 * penalty * precision)


def rexrank_measures(systems: Systems, references: Sequence[str]) -> Measures:
    """ReXrank's BLEU-2, by fast_bleu: the mean over reports, lower case, full stops as words, split at spaces.

    A report that shares words with its reference but no pair of them counts as having a tenth of a pair.
    """

    def words(text: str) -> str:
        return " ".join(text.lower().replace(".", " .").split(" "))

    gold = [words(reference) for reference in references]
    measures = {}
    for name, texts in systems.items():
        counts = np.array([bleu_counts(words(text), one) for text, one in zip(texts, gold, strict=True)], dtype=float)
        single, pairs = counts[:, 2 + ORDERS], counts[:, 3 + ORDERS]
        pairs[(pairs == 0) & (single > 0)] = 0.1
        measures[name] = [Measure.of_reports("ReXrank BLEU-2", bleu(counts, 2))]
    return measures
