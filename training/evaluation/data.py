"""The studies that are evaluated, and what the baselines may learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.datasets.source import Source, drop_missing_images, load_studies
from training.datasets.study import SPLITS, DatasetError, Study
from training.datasets.trained_on import TrainedOn


@dataclass(frozen=True)
class EvaluationData:
    """Studies with their reference texts.

    studies, references : what is scored; those without a reference are left out. Of several references the first
    further             : of each study the others; none where no study has any
    inputs              : of each study, the image that a model sees (the first that the source chooses) or the file
                          with its features; None where it has neither
    train, train_texts  : what baselines copy from, and the texts that the vocabulary of R2Gen's protocol comes from
    train_inputs        : of the training studies, likewise
    val_texts           : reports on which the constant is chosen
    left_out            : studies of the split that have no reference
    remarks             : on what is left out or unknown
    frame               : of Source
    """

    split: str
    studies: tuple[Study, ...]
    references: tuple[str, ...]
    inputs: tuple[Path | None, ...]
    train: tuple[Study, ...]
    train_texts: tuple[str, ...]
    train_inputs: tuple[Path | None, ...]
    val_texts: tuple[str, ...]
    left_out: int
    remarks: tuple[str, ...] = ()
    further: tuple[tuple[str, ...], ...] = ()
    frame: int = 0


def read_data(
    source: Source, split: str, *, with_images: bool = False, trained_on: TrainedOn | None = None
) -> EvaluationData:
    """Read a data set, and take one split of it to be evaluated.

    with_images : every study needs an image that is on this disk, or features; see Source.missing_images
    trained_on  : what the model that is evaluated has been trained on

    Raises DatasetError for an empty split, and for one that the model has been trained on.
    """
    parts: dict[str, list[Study]] = {name: [] for name in SPLITS}
    for study in load_studies(source):
        parts[study.split or "train"].append(study)
    if not parts[split]:
        sizes = ", ".join(f"{name} {len(studies)}" for name, studies in parts.items())
        raise DatasetError(f"{source.path} has no studies of split {split!r}; it has: {sizes}")
    _check_untrained(parts[split], split, trained_on)
    missing = 0
    if with_images:
        parts[split], missing = drop_missing_images(parts[split], source)
    written = {
        name: [(study, texts) for study in studies if (texts := study.texts(source.sections))]
        for name, studies in parts.items()
    }
    if not written[split]:
        known = sorted({name for study in parts[split] for name in study.sections})
        raise DatasetError(
            f"no study of {split!r} has {' or '.join(source.sections)}; its sections are {', '.join(known)}"
        )
    return EvaluationData(
        split=split,
        studies=tuple(study for study, _ in written[split]),
        references=tuple(texts[0].strip() for _, texts in written[split]),
        inputs=tuple(_find_input(study, source) for study, _ in written[split]),
        train=tuple(study for study, _ in written["train"]),
        train_texts=tuple(texts[0].strip() for _, texts in written["train"]),
        train_inputs=tuple(_find_input(study, source) for study, _ in written["train"]),
        val_texts=tuple(texts[0].strip() for _, texts in written["val"]),
        left_out=len(parts[split]) - len(written[split]),
        remarks=tuple(_make_remarks([study for study, _ in written[split]], missing)),
        further=_list_further([texts for _, texts in written[split]]),
        frame=source.frame,
    )


def _list_further(texts: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    further = tuple(tuple(text.strip() for text in several[1:]) for several in texts)
    return further if any(further) else ()


def _check_untrained(studies: Sequence[Study], split: str, trained_on: TrainedOn | None) -> None:
    known = trained_on.count_known(studies) if trained_on else 0
    if known:
        raise DatasetError(
            f"the model was trained on {known} of the {len(studies)} studies of split {split!r}; score it on studies "
            "that it has not seen: another --split, or another data set"
        )


def _find_input(study: Study, source: Source) -> Path | None:
    return next(iter(source.choose_images(study)), study.features)


def _make_remarks(studies: Sequence[Study], missing: int) -> list[str]:
    unknown = sum(study.patient_id is None for study in studies)
    remarks = []
    if missing:
        remarks.append(f"{missing} images are not on this disk and were left out.")
    if unknown:
        remarks.append(
            f"The patient of {unknown} of {len(studies)} studies is unknown: a patient may be in training too, and the "
            "intervals are too narrow where patients have several studies."
        )
    return remarks
