"""Labels read back from templated captions, and for how many pictures they are right."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from training.datasets.open_radiology import read_templates
from training.datasets.study import Study
from training.labels import LabelReader, Labels, words
from training.metrics.measure import Array, Measure
from training.metrics.overlap import Measures, Systems, cider_scores

COMMON = 20
"""Distinct captions are counted over the pictures of this many label combinations, the commonest of training."""


class Labelled(Protocol):
    """Whatever has the four labels of a picture."""

    @property
    def labels(self) -> Labels:
        """The labels."""
        ...


def right_place(said: Labels, true: Labels) -> bool:
    """Whether modality and anatomy are right."""
    return said[:2] == true[:2]


def right_group(said: Labels, true: Labels) -> bool:
    """Whether the finding group is right, and modality and anatomy with it: "normal" means nothing without them."""
    return right_place(said, true) and said.finding_group == true.finding_group


MEASURES: dict[str, Callable[[Labels, Labels], bool]] = {
    "modality_anatomy": right_place,
    "modality_anatomy_view": lambda said, true: said[:3] == true[:3],
    "finding_group": right_group,
    "all_labels": lambda said, true: said == true,
}


def label_scores(said: Sequence[Labels], records: Sequence[Labelled]) -> dict[str, float]:
    """The fraction of pictures for which each measure holds."""
    return {
        name: round(sum(measure(s, r.labels) for s, r in zip(said, records, strict=True)) / len(records), 4)
        for name, measure in MEASURES.items()
    }


class TemplateScorer:
    """Scores captions of a data set in which every label combination has several captions, all of them right.

    Nothing is told from the words alone then: the labels are read back from a caption.

    templates : the right captions of every label combination
    studies   : what is scored; their labels are `modality`, `anatomy`, `view` and `finding`
    train     : by which label combinations are common
    """

    TITLES: Mapping[str, str] = {
        "modality_anatomy": "modality, anatomy",
        "modality_anatomy_view": "and view",
        "finding_group": "finding group",
        "all_labels": "all labels",
    }

    def __init__(
        self, templates: Mapping[Labels, Sequence[str]], studies: Sequence[Study], train: Sequence[Study]
    ) -> None:
        self._templates = templates
        self._reader = LabelReader(templates)
        self._true = [labels_of(study) for study in studies]
        combinations = Counter(labels_of(study) for study in train)
        self._common = {labels for labels, _ in combinations.most_common(COMMON)}

    @classmethod
    def of_folder(cls, folder: Path, studies: Sequence[Study], train: Sequence[Study]) -> "TemplateScorer":
        """The scorer of a folder with templates.json."""
        return cls(read_templates(folder), studies, train)

    def measures(self, systems: Systems) -> tuple[Measures, Measures]:
        """Label measures and CIDEr of every system, and its right finding groups by kind of picture."""
        overall: Measures = {}
        by_kind: Measures = {}
        references = [[" ".join(words(text)) for text in self._templates[true]] for true in self._true]
        for name, captions in systems.items():
            said = [self._reader.read(caption)[0] for caption in captions]
            pairs = list(zip(said, self._true, strict=True))
            plain = [" ".join(words(caption)) for caption in captions]
            overall[name] = [
                *(
                    Measure.of_reports(self.TITLES[key], [measure(*pair) for pair in pairs])
                    for key, measure in MEASURES.items()
                ),
                Measure.of_reports("CIDEr, all right captions", cider_scores(plain, references)),
            ]
            by_kind[name] = [
                Measure(kind, self._hits(pairs, kind))
                for kind in sorted(self.kinds(), key=lambda one: (-self.kinds()[one], one))
            ]
        return overall, by_kind

    def kinds(self) -> Counter[str]:
        """How many pictures there are of each modality and anatomy."""
        return Counter(_kind(true) for true in self._true)

    def counts(self, captions: Sequence[str]) -> dict[str, Any]:
        """Captions that are no template, and distinct ones of common pictures."""
        common = {text for text, true in zip(captions, self._true, strict=True) if true in self._common}
        return {
            "not_a_template": sum(not self._reader.read(caption)[1] for caption in captions),
            f"distinct, {COMMON} commonest labels": len(common),
        }

    @staticmethod
    def _hits(pairs: Sequence[tuple[Labels, Labels]], kind: str) -> Array:
        rows = [(right_group(*pair), 1) if _kind(pair[1]) == kind else (False, 0) for pair in pairs]
        return np.array(rows, dtype=np.float64)


def labels_of(study: Study) -> Labels:
    """The four labels of a study."""
    return Labels(*(study.labels[name] for name in Labels._fields))


def _kind(labels: Labels) -> str:
    return f"{labels.anatomy} {labels.modality}"
