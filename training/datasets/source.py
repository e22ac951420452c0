"""A data set as training, evaluation and validation read it, so that all three see the same studies."""

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from training.datasets import read_studies
from training.datasets.cleaning import clean_study
from training.datasets.files import PROMPT
from training.datasets.headings import TARGETS
from training.datasets.image_files import explain_missing
from training.datasets.sections import split_sections
from training.datasets.splits import POLICIES, assign_splits
from training.datasets.study import DatasetError, Study
from training.datasets.values import PATIENT_KEYS, SHORTENED, fold_key, read_value

REFERENCES = ("first", "each", "joined")
"""What `dataset.references` allows."""


@dataclass(frozen=True)
class Source:
    """Where studies come from, what is written about them, and which split each is in: section `dataset` of a run."""

    format: str = "open_radiology"  # a name in training.datasets.FORMATS
    path: str = "../shared/data/open_radiology"
    image_folder: str = ""  # that image names are relative to, where it is not the format's own
    columns: Mapping[str, str] = field(default_factory=dict)  # format `table`: {findings: column of the table, ...}
    patient_column: str = ""  # column or key that names the patient, where the format does not know it
    patient_pattern: str = ""  # regular expression whose first group, searched in the study's id, is the patient
    splits: str = "fixed"  # "fixed": those of the data set, if any; "disjoint": those, without patients of later
    # splits; "drawn": by patient, whatever the data set says. See training.datasets.splits
    val_fraction: float = 0.1  # of the patients whose split is drawn; 0: no validation
    test_fraction: float = 0.1  # likewise: neither trained nor validated with
    split_seed: int = 0
    sections: tuple[str, ...] = (
        "findings",
        "impression",
        "report",
    )  # of a report, in this order; absent ones are left out; `report` counts where none of the others is there
    references: str = (
        "first"  # what is learned where a study has several reports: "first"; "each": as examples of their
    )
    # own; "joined": one after the other, by a space. Evaluation compares with all of them
    prompts: tuple[str, ...] = ()  # what is asked: one is drawn each time, the first is evaluated; empty: a study's
    # label `prompt`, else the model's default
    clean: tuple[str, ...] = ()  # steps of training.datasets.cleaning: whitespace, deidentified, enumeration, lowercase
    images: str = "each"  # "each": every image of a study is an example with the study's text; "first": only its first
    views: tuple[str, ...] = ()  # only images of these views, as the data set names them; empty: all
    frame: int = 0  # of files with several frames or pages the one that is used, counted from 1; 0: they are refused
    missing_images: float = 0.01  # of the images that are used, at most, may be missing on this disk; they are left out

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("splits", self.splits, POLICIES),
            ("images", self.images, ("each", "first")),
            ("references", self.references, REFERENCES),
        ):
            if value not in allowed:
                raise DatasetError(f"dataset.{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")
        held = self.val_fraction, self.test_fraction
        if min(held) < 0 or sum(held) >= 1:
            raise DatasetError(
                f"dataset.val_fraction is {held[0]}, test_fraction {held[1]}; together they must be under 1"
            )
        if self.frame < 0:
            raise DatasetError(f"dataset.frame is {self.frame}; allowed: 1 for the first frame and so on, 0 for none")
        if not 0 <= self.missing_images <= 1:
            raise DatasetError(f"dataset.missing_images is {self.missing_images}; allowed: 0 to 1")
        if self.patient_column and self.patient_pattern:
            raise DatasetError("dataset.patient_column and patient_pattern are both set; leave one of them out")

    @property
    def image_root(self) -> Path:
        """The folder below which images are named."""
        root = Path(self.image_folder or self.path)
        return root.parent if root.is_file() else root

    @property
    def fractions(self) -> dict[str, float]:
        """Of the patients, by split."""
        return {
            "train": 1 - self.val_fraction - self.test_fraction,
            "val": self.val_fraction,
            "test": self.test_fraction,
        }

    def choose_images(self, study: Study) -> tuple[Path, ...]:
        """The images of a study that are used, in its order."""
        chosen = tuple(
            image for image, view in zip(study.images, study.views, strict=True) if not self.views or view in self.views
        )
        return chosen[:1] if self.images == "first" else chosen

    def choose_texts(self, study: Study) -> tuple[str, ...]:
        """What is learned of a study: texts, each with each image; none where it has no such section."""
        texts = study.texts(self.sections)
        if self.references == "joined" and texts:
            return (" ".join(texts),)
        return texts if self.references == "each" else texts[:1]

    def choose_prompt(self, study: Study) -> str:
        """What is asked about a study when it is evaluated; empty where that is the model's default."""
        return self.prompts[0] if self.prompts else study.labels.get(PROMPT, "")


def load_studies(source: Source) -> list[Study]:
    """Every study with its patient, sections and split. Raises DatasetError for what cannot be read or split."""
    return assign_splits(read_source(source), source.split_seed, source.fractions, source.splits)


def read_source(source: Source, limit: int | None = None) -> list[Study]:
    """Every study with its patient and its sections, and the split that the data set gives it, if any.

    limit : at most this many studies, from the first on

    Raises DatasetError for what cannot be read.
    """
    studies = read_studies(source.format, source.path, source.image_folder or None, columns=source.columns, limit=limit)
    studies = [clean_study(_cut_report(study, source.sections), source.clean) for study in studies]
    if source.patient_column or source.patient_pattern:
        studies = [replace(study, patient_id=_name_patient(study, source)) for study in studies]
    if source.views and not any(view in source.views for study in studies for view in study.views):
        known = sorted({view for study in studies for view in study.views})
        raise DatasetError(
            f"dataset.views is {', '.join(source.views)}, which {source.path} has not; its views are: "
            f"{', '.join(map(repr, known))}"
        )
    return studies


def drop_missing_images(studies: Sequence[Study], source: Source) -> tuple[list[Study], int]:
    """The studies with those of their chosen images that are on this disk, and how many are not.

    Studies that are left without image and features are left out.

    Raises DatasetError where more images are missing than `missing_images` allows.
    """
    kept, total, missing = [], 0, []
    for study in studies:
        chosen = source.choose_images(study)
        views = dict(zip(study.images, study.views, strict=True))
        there = tuple(image for image in chosen if image.is_file())
        total += len(chosen)
        missing += [image for image in chosen if image not in there]
        if there or study.features is not None:
            kept.append(replace(study, images=there, views=tuple(views[image] for image in there)))
    if len(missing) > source.missing_images * total:
        raise DatasetError(
            f"{len(missing)} of {total} images of {source.path} are not on this disk, the first is {missing[0]}"
            f"{explain_missing(missing[0])}; "
            f"allowed: {source.missing_images:.0%} (dataset.missing_images); name their folder with "
            "dataset.image_folder (--images), complete it, or allow more"
        )
    return kept, len(missing)


def _cut_report(study: Study, sections: Sequence[str]) -> Study:
    """The study with its texts cut at their headings where sections are wanted.

    `report` is cut, and no longer there as a whole, where the data set has none of the wanted sections itself. Findings
    and impression lose headings and sections that are not theirs.
    """
    wanted = set(sections) - {"report"}
    further = tuple(_cut_sections(report, wanted) for report in study.further)
    return replace(study, sections=_cut_sections(study.sections, wanted), further=further)


def _cut_sections(sections: Mapping[str, str], wanted: Set[str]) -> Mapping[str, str]:
    texts = dict(sections)
    for name in wanted & texts.keys() & set(TARGETS):
        found = split_sections(texts[name], name)
        if found != {name: texts[name].strip()}:
            del texts[name]
            texts = found | texts | ({name: found[name]} if name in found else {})
    if wanted and "report" in texts and not wanted & sections.keys():
        found = split_sections(texts["report"])
        if "report" not in found:
            texts = {name: text for name, text in texts.items() if name != "report"} | found
    return texts


def _name_patient(study: Study, source: Source) -> str | None:
    if source.patient_column:
        if fold_key(source.patient_column) in PATIENT_KEYS and study.patient_id:
            return study.patient_id
        patient = study.labels.get(source.patient_column)
        if patient is None:
            raise DatasetError(
                f"{study.place or study.study_id} has no {source.patient_column!r} (dataset.patient_column), or "
                f"rows with different values of it; it has: {', '.join(study.labels)}"
            )
        if SHORTENED.fullmatch(patient):
            raise DatasetError(
                f"{study.place or study.study_id}: the patient {patient!r} has lost its last digits in a spreadsheet; "
                f"format the column {source.patient_column!r} as text, and enter its values again from the original"
            )
        return read_value(patient)
    try:
        found = re.search(source.patient_pattern, study.study_id)
        patient = found[1] if found else None
    except (re.error, IndexError) as error:
        raise DatasetError(
            f"dataset.patient_pattern is {source.patient_pattern!r}: {error}; "
            r"it needs one group, such as ^(\d+)_"
        ) from error
    if not patient:
        raise DatasetError(f"dataset.patient_pattern finds no patient in the id {study.study_id!r}")
    return patient
