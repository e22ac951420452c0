"""From studies to what a network learns from: one image and one report each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from training.datasets import read_studies
from training.datasets.study import DatasetError, Study
from training.seeds import generator_of
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


def read_examples(settings: DatasetSettings, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples to train on and to validate with; no patient is in both.

    Raises DatasetError where the data set cannot be used, or nothing is left to train on.
    """
    studies = read_studies(settings.format, Path(settings.path))
    train, val = split_by_patient(studies, settings.val_fraction, seed)
    examples = tuple(list(_examples(part, settings))[: settings.limit or None] for part in (train, val))
    if not examples[0]:
        found = sorted({name for study in studies for name, text in study.sections.items() if text})
        views = sorted({view for study in studies for view in study.views})
        raise DatasetError(
            f"{settings.path} has {len(studies)} studies, {len(train)} of them to train on, and none with an image and "
            f"a text of the sections {', '.join(settings.sections)}; its sections are: {', '.join(found)}; its views "
            f"are: {', '.join(map(repr, views))}"
        )
    return examples[0], examples[1]


def split_by_patient(studies: Sequence[Study], fraction: float, seed: int) -> tuple[list[Study], list[Study]]:
    """Studies to train on and to validate with: as the data set says, or else this fraction of the patients."""
    if any(study.split is not None for study in studies):
        return [s for s in studies if s.split == "train"], [s for s in studies if s.split == "val"]
    patients = sorted({study.patient_id for study in studies})
    order = torch.randperm(len(patients), generator=generator_of(seed, "split", 0)).tolist()
    held = {patients[i] for i in order[: round(fraction * len(patients))]}
    return [s for s in studies if s.patient_id not in held], [s for s in studies if s.patient_id in held]


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
