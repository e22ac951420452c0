"""Metrics with networks of their own: used where package and weights are here; else the report says what is missing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from training.evaluation.metrics.measure import Measure
from training.evaluation.metrics.overlap import Measures, Systems

Scores = Callable[[Any, Sequence[str], Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class Extra:
    """One metric.

    title   : what its row is called
    package : what is installed, `module` what is imported
    weights : what it loads, from where
    make    : loads the metric
    scores  : the metric, texts and references -> a score for every text
    """

    title: str
    package: str
    module: str
    weights: str
    make: Callable[[], Any]
    scores: Scores

    def lacking(self) -> str | None:
        """What has to be installed; None where the package is here."""
        if find_spec(self.module) is not None:
            return None
        return f"{self.title} was not computed: package {self.package} is not installed; it also needs {self.weights}."


def _radgraph() -> Any:
    return import_module("radgraph").F1RadGraph(reward_level="partial", model_type="radgraph-xl")


def _radgraph_scores(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Sequence[float]:
    _, scores, _, _ = metric(hyps=list(texts), refs=list(references))
    return list(scores)


def _chexbert() -> Any:
    return import_module("f1chexbert").F1CheXbert()


def _chexbert_scores(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Sequence[float]:
    """F1 of each report's own labels (example-based), which a mean and its bootstrap can be taken of."""
    said, true = ([set(np.flatnonzero(metric.get_label(text))) for text in side] for side in (texts, references))
    return [2 * len(a & b) / max(len(a) + len(b), 1) for a, b in zip(said, true, strict=True)]


def _ratescore() -> Any:
    return import_module("RaTEScore").RaTEScore(use_gpu=torch.cuda.is_available())


def _ratescore_scores(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Sequence[float]:
    return list(metric.compute_score(list(texts), list(references)))


def _green() -> Any:
    return import_module("green_score").GREEN("StanfordAIMI/GREEN-radllama2-7b", output_dir=".")


def _green_scores(metric: Any, texts: Sequence[str], references: Sequence[str]) -> Sequence[float]:
    return list(metric(list(references), list(texts))[2])


EXTRAS: Mapping[str, Extra] = {
    "radgraph": Extra(
        "RadGraph F1", "radgraph", "radgraph", "StanfordAIMI/RRG_scorers and its BERT (Hugging Face)",
        _radgraph, _radgraph_scores,
    ),
    "chexbert": Extra(
        "CheXbert F1, by report", "f1chexbert", "f1chexbert", "chexbert.pth and bert-base-uncased (Hugging Face)",
        _chexbert, _chexbert_scores,
    ),
    "ratescore": Extra(
        "RaTEScore", "RaTEScore", "RaTEScore", "Angelakeke/RaTE-NER-Deberta and FremyCompany/BioLORD-2023-C "
        "(Hugging Face)", _ratescore, _ratescore_scores,
    ),
    "green": Extra(
        "GREEN", "green-score", "green_score", "StanfordAIMI/GREEN-radllama2-7b (Hugging Face, 7 billion parameters)",
        _green, _green_scores,
    ),
}  # fmt: skip


def extra_measures(names: Sequence[str], systems: Systems, references: Sequence[str]) -> tuple[Measures, list[str]]:
    """Measures of the metrics that were asked for, and for those that cannot be computed what they lack."""
    measures: Measures = {name: [] for name in systems}
    lacking = []
    for extra in (EXTRAS[name] for name in names):
        reason = extra.lacking()
        if reason is not None:
            lacking.append(reason)
            continue
        try:
            metric = extra.make()
        except (OSError, ImportError) as error:
            lacking.append(f"{extra.title} was not computed: it needs {extra.weights}, and could not load: {error}")
            continue
        for name, texts in systems.items():
            measures[name].append(Measure.of_reports(extra.title, extra.scores(metric, texts, references)))
    return measures, lacking
