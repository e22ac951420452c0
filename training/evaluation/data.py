"""The studies that are evaluated, and what the baselines may learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from training.datasets import read_studies
from training.datasets.splits import assign_splits
from training.datasets.study import SPLITS, DatasetError, Study


@dataclass(frozen=True)
class EvaluationData:
    """Studies with their reference texts.

    studies, references : what is scored; those without a reference are left out
    train, train_texts  : what baselines copy from, and what the vocabulary of R2Gen's protocol is made of
    val_texts           : reports on which the constant is chosen
    left_out            : studies of the split that have no reference
    """

    split: str
    studies: tuple[Study, ...]
    references: tuple[str, ...]
    train: tuple[Study, ...]
    train_texts: tuple[str, ...]
    val_texts: tuple[str, ...]
    left_out: int


def read_data(
    data_format: str, path: Path, split: str, sections: Sequence[str], images: Path | None, *, seed: int = 0
) -> EvaluationData:
    """Read a data set, and take one split of it to be evaluated.

    seed : of the splits, where the data set fixes none; that of the training
    """
    everything = assign_splits(read_studies(data_format, path, images), seed)
    parts = {name: [study for study in everything if study.split == name] for name in SPLITS}
    if not parts[split]:
        sizes = ", ".join(f"{name} {len(studies)}" for name, studies in parts.items())
        raise DatasetError(f"{path} has no studies of split {split!r}; it has: {sizes}")
    written = {
        name: [(study, text) for study in studies if (text := study.text(sections).strip())]
        for name, studies in parts.items()
    }
    if not written[split]:
        known = sorted({name for study in parts[split] for name in study.sections})
        raise DatasetError(f"no study of {split!r} has {' or '.join(sections)}; its sections are {', '.join(known)}")
    return EvaluationData(
        split=split,
        studies=tuple(study for study, _ in written[split]),
        references=tuple(text for _, text in written[split]),
        train=tuple(study for study, _ in written["train"]),
        train_texts=tuple(text for _, text in written["train"]),
        val_texts=tuple(text for _, text in written["val"]),
        left_out=len(parts[split]) - len(written[split]),
    )
