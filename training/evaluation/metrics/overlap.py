"""Scores of shared words: R2Gen's protocol by pycocoevalcap, sacrebleu, and ReXrank's BLEU-2, for several systems."""

import re
from collections.abc import Mapping, Sequence
from math import exp

import numpy as np

from training.evaluation.metrics.measure import Array, Measure
from training.evaluation.metrics.meteor import meteor_counts, meteor_measure
from training.evaluation.metrics.ngrams import ORDERS, bleu_measures, gather_references, ngram_counts

Systems = Mapping[str, Sequence[str]]
"""The reports of every system, in the order of the references."""

Measures = dict[str, list[Measure]]
"""The measures of every system."""


def coco_measures(
    systems: Systems, references: Sequence[str], further: Sequence[Sequence[str]] = (), *, with_meteor: bool = True
) -> Measures:
    """BLEU-1 to 4, METEOR, ROUGE-L and CIDEr of texts that a protocol has tokenized.

    BLEU and METEOR are of the whole corpus, ROUGE-L and CIDEr means over reports, as pycocoevalcap has them.

    further     : references of each report besides the first; none where no report has any
    with_meteor : see `training.evaluation.metrics.meteor.find_refusal`
    """
    golds = gather_references(references, further)
    pairs = [(text, *several) for texts in systems.values() for text, several in zip(texts, golds, strict=True)]
    meteor = dict(zip(pairs, meteor_counts(pairs), strict=True)) if with_meteor else {}
    measures = {}
    for name, texts in systems.items():
        own = [meteor[text, *several] for text, several in zip(texts, golds, strict=True)] if with_meteor else []
        measures[name] = [
            *bleu_measures(texts, references, further),
            *([meteor_measure(np.array(own))] if with_meteor else []),
            Measure.of_reports("ROUGE-L", rouge_scores(texts, references, further)),
            Measure.of_reports("CIDEr", cider_scores(texts, golds)),
        ]
    return measures


def rouge_scores(texts: Sequence[str], references: Sequence[str], further: Sequence[Sequence[str]] = ()) -> Array:
    """ROUGE-L of each text by pycocoevalcap: the F-measure with recall weighted by 1.2 squared.

    Of several references it takes the highest precision and the highest recall.
    """
    from pycocoevalcap.rouge.rouge import Rouge

    scorer, golds = Rouge(), gather_references(references, further)
    return np.array([scorer.calc_score([text], several) for text, several in zip(texts, golds, strict=True)])


def cider_scores(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
    """CIDEr of each text by pycocoevalcap (Vedantam et al., CVPR 2015); 10 is a text equal to its only reference.

    Document frequencies are those of the references given, also in every bootstrap draw. A word that all references
    have weighs nothing: where they are equal, or there is one, every text scores 0.
    """
    from pycocoevalcap.cider.cider import Cider

    if not any(reference.split() for several in references for reference in several):
        return np.zeros(len(texts))  # pycocoevalcap fails where no reference has a word
    gold = {i: list(texts) for i, texts in enumerate(references)}
    _, scores = Cider().compute_score(gold, {i: [text] for i, text in enumerate(texts)})
    return np.asarray(scores, dtype=np.float64)


SACREBLEU = {"13a": ("13a", False), "13a -lc": ("13a", True), "none": ("none", False)}
"""Tokenizer, and whether case is ignored."""

SPACELESS = {"zh": "zh", "ja": "char", "th": "char"}
"""Languages written without spaces between words, and sacrebleu's tokenizer for each."""


def sacrebleu_measures(
    systems: Systems, references: Sequence[str], language: str = "en", further: Sequence[Sequence[str]] = ()
) -> tuple[Measures, list[str]]:
    """Sacrebleu's BLEU of the uncleaned texts, 0 to 100, and its signatures, by which others can repeat it.

    language : ISO 639-1; those of SPACELESS have a tokenizer of their own
    further  : as for `coco_measures`
    """
    from sacrebleu.metrics.bleu import BLEU

    measures: Measures = {name: [] for name in systems}
    signatures = []
    golds = gather_references(references, further)
    numbers = {len(several) for several in golds}
    own = SPACELESS.get(language)
    for title, (tokenizer, lowercase) in ({own: (own, False)} if own else SACREBLEU).items():
        scorer = BLEU(tokenize=tokenizer, lowercase=lowercase)
        for name, texts in systems.items():
            counts = []
            for text, several in zip(texts, golds, strict=True):
                score = scorer.corpus_score([text], [[gold] for gold in several])
                counts.append([score.sys_len, score.ref_len, *score.totals, *score.counts])
            statistics = np.array(counts, dtype=np.float64)
            measures[name].append(Measure(f"sacreBLEU {title}", statistics, sacrebleu))
        signature = str(scorer.get_signature())
        if len(numbers) > 1:  # sacrebleu's own word for it
            signature = re.sub(r"nrefs:\d+", "nrefs:var", signature)
        signatures.append(f"sacreBLEU {title}: {signature}")
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
        score = 100 * penalty * precision
    empty = none.all(axis=-1) | (guessed == 0).any(axis=-1)
    return np.where(empty, 0.0, score)


def rexrank_measures(systems: Systems, references: Sequence[str]) -> Measures:
    """ReXrank's BLEU-2, the mean over reports of `rexrank_bleu`."""
    return {
        name: [
            Measure.of_reports("ReXrank BLEU-2", [rexrank_bleu(*pair) for pair in zip(texts, references, strict=True)])
        ]
        for name, texts in systems.items()
    }


def rexrank_bleu(text: str, reference: str) -> float:
    """BLEU-2 of one text as ReXrank computes it: fast_bleu of words in lower case, full stops as words.

    fast_bleu smooths as NLTK's `method1` (Chen and Cherry, WMT 2014): where no n-gram of an order matches, a tenth of
    one does. Texts that share no word score 0, and a text of one word has one pair, none of which matches. Words are
    split at spaces alone: a line end is part of a word.
    """
    tokens, gold = _split_for_rexrank(text), _split_for_rexrank(reference)
    counts = ngram_counts(tokens)
    matching = counts & ngram_counts(gold)
    single, pairs = (sum(count for ngram, count in matching.items() if len(ngram) == order) for order in (1, 2))
    if not single:
        return 0.0
    precision = single / len(tokens) * (pairs or 0.1) / max(len(tokens) - 1, 1)
    return float(precision**0.5 * exp(min(0.0, 1 - len(gold) / len(tokens))))


def _split_for_rexrank(text: str) -> list[str]:
    return [word for word in text.lower().replace(".", " .").split(" ") if word]
