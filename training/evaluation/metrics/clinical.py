"""Clinical labels of reports compared with those of their references, by the rule labeler."""

from collections.abc import Mapping, Sequence
from functools import cache

from prelim.labels.labeler import FINDINGS, LABELS, Labeler
from training.evaluation.metrics.f1 import hits, macro_f1, micro_f1
from training.evaluation.metrics.overlap import Measures, Systems

FIVE = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural effusion")
"""The five that CheXpert's competition scored."""

GROUPS = {"13 findings": FINDINGS, "5 findings": FIVE, "14 labels": LABELS}
"""The 13 come first: with "no finding" among them a system that always says it has a high micro F1."""


def clinical_measures(systems: Systems, references: Sequence[str]) -> tuple[Measures, Measures]:
    """F1 of the groups of labels, and of every label by itself, between a report and its reference."""
    labeler = Labeler()

    @cache
    def read(text: str) -> frozenset[str]:
        return labeler.find(text)

    true = [read(reference) for reference in references]
    groups: Measures = {}
    single: Measures = {}
    for name, texts in systems.items():
        said = [read(text) for text in texts]
        groups[name] = [
            measure(f"{kind} F1, {title}", hits(said, true, labels))
            for title, labels in GROUPS.items()
            for kind, measure in (("micro", micro_f1), ("macro", macro_f1))
        ]
        single[name] = [micro_f1(label, hits(said, true, [label])) for label in LABELS]
    return groups, single


def describe_absent(counts: Mapping[str, int]) -> str:
    """What macro F1 makes of labels without a reference, for a remark; empty where every label has one.

    counts : from `label_counts`
    """
    absent = [label for label, count in counts.items() if not count]
    if not absent:
        return ""
    return (
        f"macro F1 counts a label that no reference has as 0, here {len(absent)} of {len(counts)}: {', '.join(absent)}"
    )


def label_counts(references: Sequence[str]) -> dict[str, int]:
    """How many references have each label."""
    labeler = Labeler()
    found = [labeler.find(reference) for reference in references]
    return {label: sum(label in one for one in found) for label in LABELS}
