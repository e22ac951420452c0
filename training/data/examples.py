"""From studies to what a network learns from: one image and one report each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.datasets import read_studies
from training.datasets.splits import assign_splits
from training.datasets.study import DatasetError, Study
from training.settings import DatasetSettings


@dataclass(frozen=True)
class Example:
    """One image with the text that is to be written for it.

    prompt : what is asked; empty where the model's own default is
    labels : of the study
    """

    image: Path
    text: str
    prompt: str
    labels: Mapping[str, str]

    def kind(self, names: Sequence[str]) -> tuple[str, ...]:
        """The values of the named labels, empty where it has none."""
        return tuple(self.labels.get(name, "") for name in names)


def read_examples(settings: DatasetSettings) -> tuple[list[Example], list[Example]]:
    """Examples to train on and to validate with; no patient is in both.

    Raises DatasetError where the data set cannot be used, or nothing is left to train on.
    """
    there = not settings.features  # where features are given, the images may be elsewhere
    found = read_studies(settings.format, settings.path, settings.image_folder or None, only_present=there)
    held = {"val": settings.val_fraction, "test": settings.test_fraction}
    studies = assign_splits(found, settings.split_seed, {"train": 1 - sum(held.values()), **held})
    train, val = ([study for study in studies if study.split == name] for name in ("train", "val"))
    examples = tuple(list(_examples(part, settings))[: settings.limit or None] for part in (train, val))
    if not examples[0]:
        known = sorted({name for study in studies for name, text in study.sections.items() if text})
        views = sorted({view for study in studies for view in study.views})
        raise DatasetError(
            f"{settings.path} has {len(studies)} studies, {len(train)} of them to train on, and none with an image and "
            f"a text of the sections {', '.join(settings.sections)}; its sections are: {', '.join(known)}; its views "
            f"are: {', '.join(map(repr, views))}"
        )
    return examples[0], examples[1]


def _examples(studies: Iterable[Study], settings: DatasetSettings) -> Iterable[Example]:
    for study in studies:
        text = study.text(settings.sections)
        chosen = [
            image
            for image, view in zip(study.images, study.views, strict=True)
            if not settings.views or view in settings.views
        ]
        for image in chosen[:1] if settings.images == "first" else chosen:
            if text.strip():
                yield Example(image, text, study.labels.get("prompt", ""), study.labels)
