"""The studies that are evaluated, and what the baselines may learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.datasets.source import Source, drop_missing_images, load_studies
from training.datasets.study import SPLITS, DatasetError, Study
from training.datasets.trained_on import TrainedOn, split_known


@dataclass(frozen=True)
class EvaluationData:
    """Studies with their reference texts.

    studies, references : what is scored; those without a reference are left out. Of several references the first
    further             : of each study the others; none where no study has any
    inputs              : of each study, the image that a model sees (the first that the source chooses) or the file
                          with its features; None where it has neither
    prompts             : of each study, what the model is asked; empty: its default
    train, train_texts  : what baselines copy from, and the texts that the vocabulary of R2Gen's protocol comes from
    train_inputs        : of the training studies, likewise
    val_texts           : reports on which the constant is chosen
    left_out            : studies of the split that have no reference, or no image of the views that are asked for
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
    prompts: tuple[str, ...] = ()


def read_data(
    source: Source, split: str, *, with_images: bool = False, trained_on: TrainedOn | None = None
) -> EvaluationData:
    """Read a data set, and take one split of it to be evaluated.

    with_images : every study needs an image that is on this disk, or features; see Source.missing_images
    trained_on  : what the model that is evaluated has been trained on

    Studies that the model has been trained on, and others of their patients, are left out with a remark.

    Raises DatasetError for an empty split, and for the training split or one of which nothing is left.
    """
    parts: dict[str, list[Study]] = {name: [] for name in SPLITS}
    for study in load_studies(source):
        parts[study.split or "train"].append(study)
    if not parts[split]:
        sizes = ", ".join(f"{name} {len(studies)}" for name, studies in parts.items())
        raise DatasetError(f"{source.path} has no studies of split {split!r}; it has: {sizes}")
    remarks: list[str] = []
    if trained_on:
        parts[split], remarks = _leave_out_known(parts, split, source, trained_on)
    if split == "train":
        remarks.append(
            "The baselines copy from the studies that are scored: their nearest image is the picture itself."
        )
    missing, unseen = 0, 0
    if with_images:
        unseen = sum(not source.choose_images(study) and study.features is None for study in parts[split])
        parts[split], missing = drop_missing_images(parts[split], source)
        if not parts[split]:
            raise DatasetError(
                f"no study of {split!r} has an image that can be used: {missing} images are not on this disk, {unseen} "
                "studies have none, or none of dataset.views; name their folder with dataset.image_folder (--images), "
                "or other views"
            )
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
        left_out=len(parts[split]) - len(written[split]) + unseen,
        remarks=(*remarks, *_make_remarks([study for study, _ in written[split]], source, missing, unseen)),
        further=_list_further([texts for _, texts in written[split]]),
        frame=source.frame,
        prompts=tuple(source.choose_prompt(study) for study, _ in written[split]),
    )


def _list_further(texts: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    further = tuple(tuple(text.strip() for text in several[1:]) for several in texts)
    return further if any(further) else ()


def _leave_out_known(
    parts: dict[str, list[Study]], split: str, source: Source, trained_on: TrainedOn
) -> tuple[list[Study], list[str]]:
    """The studies of the split that the model has not learned from, nor from others of their patients; remarks."""
    total = len(parts[split])
    fresh, known, related = split_known(parts, split, source, trained_on)
    if known and (split == "train" or not fresh):
        raise DatasetError(
            f"the model was trained on {known} of the {total} studies of split {split!r}, recognized by id or image; "
            "score it on studies that it has not seen: another --split, or another data set (with other ids)"
        )
    if not fresh:
        raise DatasetError(f"the model was trained on the patients of all {total} studies of split {split!r}")
    remarks = []
    if known + related:
        remarks.append(
            f"{known + related} of {total} studies of {split} were left out: the model was trained on {known} of them "
            f"(recognized by id or image), and on other studies of the patients of {related}."
        )
    if chosen := sum(trained_on.was_chosen_on(study, source) for study in fresh):
        remarks.append(
            f"The weights were chosen on {chosen} of these {len(fresh)} studies, for which the scores flatter."
        )
    return fresh, remarks


def _find_input(study: Study, source: Source) -> Path | None:
    return next(iter(source.choose_images(study)), study.features)


def _make_remarks(studies: Sequence[Study], source: Source, missing: int, unseen: int) -> list[str]:
    unknown = sum(study.patient_id is None for study in studies)
    remarks: list[str] = []
    if unseen:
        what = f"of the views {', '.join(source.views)} (dataset.views)" if source.views else "at all"
        remarks.append(f"{unseen} studies have no image {what} and were left out.")
    if missing:
        remarks.append(f"{missing} images are not on this disk and were left out.")
    if unknown:
        remarks.append(
            f"The patient of {unknown} of {len(studies)} studies is unknown: a patient may be in training too, and the "
            "intervals are too narrow where patients have several studies."
        )
    return remarks
