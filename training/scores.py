"""Scores of captions: labels read back from them, CIDEr, and how sure one can be."""

from collections.abc import Iterable, Sequence

import numpy as np

from training.datasets.open_radiology import Record
from training.labels import Labels, words


def right_place(said: Labels, true: Labels) -> bool:
    """Whether modality and anatomy are right."""
    return said[:2] == true[:2]


def right_group(said: Labels, true: Labels) -> bool:
    """Whether the finding group is right, and modality and anatomy with it: "normal" means nothing without them."""
    return right_place(said, true) and said.finding_group == true.finding_group


MEASURES = {
    "modality_anatomy": right_place,
    "modality_anatomy_view": lambda said, true: said[:3] == true[:3],
    "finding_group": right_group,
    "all_labels": lambda said, true: said == true,
}


def label_scores(said: Sequence[Labels], records: Sequence[Record]) -> dict[str, float]:
    """The fraction of pictures for which each measure holds."""
    return {
        name: round(sum(measure(s, r.labels) for s, r in zip(said, records, strict=True)) / len(records), 4)
        for name, measure in MEASURES.items()
    }


def intervals(said: Sequence[Labels], records: Sequence[Record], draws: int = 2000) -> dict[str, list[float]]:
    """95 % bootstrap intervals of `label_scores`; patients are drawn, since pictures of one patient look alike."""
    patients = sorted({record.patient for record in records})
    index = {patient: i for i, patient in enumerate(patients)}
    owner = np.array([index[record.patient] for record in records])
    size = np.bincount(owner)
    drawn = np.random.default_rng(0).integers(len(patients), size=(draws, len(patients)))
    result = {}
    for name, measure in MEASURES.items():
        right = [measure(s, r.labels) for s, r in zip(said, records, strict=True)]
        hits = np.bincount(owner, weights=right)
        low, high = np.quantile(hits[drawn].sum(axis=1) / size[drawn].sum(axis=1), [0.025, 0.975])
        result[name] = [round(float(low), 4), round(float(high), 4)]
    return result


def by_kind(said: Sequence[Labels], records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Number of pictures and fraction of right finding groups for each modality and anatomy."""
    kinds: dict[str, list[bool]] = {}
    for s, record in zip(said, records, strict=True):
        kinds.setdefault(" ".join(record.labels[1::-1]), []).append(right_group(s, record.labels))
    ordered = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    return {kind: {"images": len(right), "finding_group": round(sum(right) / len(right), 4)} for kind, right in ordered}


def cider(captions: Sequence[str], references: Sequence[Iterable[str]]) -> float:
    """CIDEr of pycocoevalcap (Vedantam et al., CVPR 2015): 10 is a caption equal to its only reference.

    Words are lower-cased and commas dropped; document frequencies are those of the references given.
    """
    from pycocoevalcap.cider.cider import Cider

    gold = {i: [" ".join(words(text)) for text in texts] for i, texts in enumerate(references)}
    score, _ = Cider().compute_score(gold, {i: [" ".join(words(text))] for i, text in enumerate(captions)})
    return round(float(score), 4)
