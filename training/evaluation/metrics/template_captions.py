"""Labels read back from templated captions, and for how many pictures they are right."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.datasets.formats.open_radiology import read_templates
from training.datasets.study import Study
from training.datasets.templates import LabelReader, Labels, words
from training.evaluation.metrics.measure import Array, Measure
from training.evaluation.metrics.overlap import Measures, Systems, cider_scores

COMMON = 20
"""Distinct captions are counted over the pictures of this many label combinations, the commonest of training."""


def right_place(said: Labels, true: Labels) -> bool:
    """Whether modality and anatomy are right."""
    return said[:2] == true[:2]


def right_group(said: Labels, true: Labels) -> bool:
    """Whether the finding group is right, and modality and anatomy with it: "normal" means nothing without them."""
    return right_place(said, true) and said.finding_group == true.finding_group


GROUP_TITLE = "finding group"
NOT_A_TEMPLATE = "not a template"

MEASURES: dict[str, Callable[[Labels, Labels], bool]] = {
    "modality_anatomy": right_place,
    "modality_anatomy_view": lambda said, true: said[:3] == true[:3],
    "finding_group": right_group,
    "all_labels": lambda said, true: said == true,
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
        "finding_group": GROUP_TITLE,
        "all_labels": "all labels",
    }

    def __init__(
        self, templates: Mapping[Labels, Sequence[str]], studies: Sequence[Study], train: Sequence[Study]
    ) -> None:
        self._templates = templates
        self._reader = LabelReader(templates)
        self._true = [labels_of(study) for study in studies]
        self._given = [study.text(["report"]) for study in studies]
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
        right = [[_plain(text) for text in self._templates[true]] for true in self._true]
        given = [[_plain(text)] for text in self._given]
        for name, captions in systems.items():
            said = [self._reader.read(caption)[0] for caption in captions]
            pairs = list(zip(said, self._true, strict=True))
            plain = [_plain(caption) for caption in captions]
            overall[name] = [
                *(
                    Measure.of_reports(self.TITLES[key], [measure(*pair) for pair in pairs])
                    for key, measure in MEASURES.items()
                ),
                Measure.of_reports("CIDEr, given caption", cider_scores(plain, given)),
                Measure.of_reports("CIDEr, six right captions", cider_scores(plain, right)),
            ]
            by_kind[name] = [Measure(kind, _hits(pairs, kind)) for kind in self.kinds()]
        return overall, by_kind

    def kinds(self) -> dict[str, int]:
        """How many pictures there are of each modality and anatomy, the commonest first."""
        counts = Counter(_kind(true) for true in self._true)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def counts(self, captions: Sequence[str]) -> dict[str, Any]:
        """Captions that do not match a template, and distinct ones of common pictures."""
        common = {text for text, true in zip(captions, self._true, strict=True) if true in self._common}
        return {
            NOT_A_TEMPLATE: sum(not self._reader.read(caption)[1] for caption in captions),
            f"distinct, {COMMON} commonest labels": len(common),
        }


def labels_of(study: Study) -> Labels:
    """The four labels of a study."""
    return Labels(*(study.labels[name] for name in Labels._fields))


def _kind(labels: Labels) -> str:
    return f"{labels.anatomy} {labels.modality}"


def _plain(caption: str) -> str:
    """A caption as CIDEr gets it: lower-case words without commas."""
    return " ".join(words(caption))


def _hits(pairs: Sequence[tuple[Labels, Labels]], kind: str) -> Array:
    """Of every picture whether its group is right, and whether it is of this kind; shape (pictures, 2)."""
    there = np.array([_kind(true) == kind for _, true in pairs])
    right = np.array([right_group(*pair) for pair in pairs])
    return np.stack([right & there, there], axis=1).astype(np.float64)
