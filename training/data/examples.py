"""From studies to what a network learns from: one image and one report each."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from training.datasets.files import PROMPT
from training.datasets.source import drop_missing_images, load_studies
from training.datasets.study import DatasetError, Study
from training.datasets.trained_on import mark_image, mark_patient, mark_texts
from training.settings import DatasetSettings


@dataclass(frozen=True)
class Example:
    """One image with the text that is to be written for it.

    image       : its file, or the file with its features where the data set has these instead
    prompt      : what is asked; empty where the model's own default is
    labels      : of the study
    marks       : of the study and the image, see training.datasets.trained_on
    patient     : who it is; None where that is unknown
    """

    image: Path
    text: str
    prompt: str
    labels: Mapping[str, str]
    marks: tuple[str, ...] = ()
    patient: str | None = None

    def kind(self, names: Sequence[str]) -> tuple[str, ...]:
        """The values of the named labels, empty where it has none."""
        return tuple(self.labels.get(name, "") for name in names)


@dataclass(frozen=True)
class Examples:
    """What a run learns from.

    train, val : no patient that is known is in both
    embedded   : the data set has features instead of images
    remarks    : what of it is left out or unknown, for the user
    """

    train: list[Example]
    val: list[Example]
    embedded: bool
    remarks: list[str]


def read_examples(settings: DatasetSettings) -> Examples:
    """Examples to train on and to validate with.

    Raises DatasetError where the data set cannot be used, or nothing is left to train on.
    """
    studies = load_studies(settings)
    remarks = []
    unseen = sum(not settings.choose_images(study) and study.features is None for study in studies)
    if unseen and settings.views:
        remarks.append(f"{unseen} studies have no image of the views {', '.join(settings.views)} and are left out")
    if not settings.features:  # with extracted features the images may be elsewhere
        studies, missing = drop_missing_images(studies, settings)
        remarks += [f"{missing} images are not on this disk and are left out"] if missing else []
    unknown = sum(study.patient_id is None for study in studies)
    if unknown:
        remarks.append(
            f"the patient of {unknown} of {len(studies)} studies is unknown: one person may be in training and "
            "validation (dataset.patient_column or dataset.patient_pattern names patients)"
        )
    parts = {name: [study for study in studies if study.split == name] for name in ("train", "val")}
    train, val = (list(islice(_make_examples(part, settings), settings.limit or None)) for part in parts.values())
    if not train:
        known = sorted({name for study in studies for name in study.sections})
        views = sorted({view for study in studies for view in study.views})
        raise DatasetError(
            f"{settings.path} has {len(studies)} studies, {len(parts['train'])} of them to train on, and none with an "
            f"image and a text of the sections {', '.join(settings.sections)}; its sections are: {', '.join(known)}; "
            f"its views are: {', '.join(map(repr, views))}"
        )
    return Examples(train, val, all(study.features is not None for study in studies), remarks)


def _make_examples(studies: Iterable[Study], settings: DatasetSettings) -> Iterable[Example]:
    for study in studies:
        images = settings.choose_images(study) or ((study.features,) if study.features else ())
        patient = mark_patient(study, settings)
        marks = (*mark_texts(study, settings), *([patient] if patient else []))
        for image in images:
            file = mark_image(image)
            known = (*marks, *([file] if file else []))
            for text in settings.choose_texts(study):
                yield Example(image, text, study.labels.get(PROMPT, ""), study.labels, known, study.patient_id)
