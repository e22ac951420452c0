"""The studies that are evaluated, and what the baselines may learn from."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from training import rexrank
from training.datasets.open_radiology import read_records
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


def read_data(data_format: str, path: Path, split: str, sections: Sequence[str], images: Path | None) -> EvaluationData:
    """Read a data set, and take one split of it to be evaluated."""
    everything = read_studies(data_format, path, images)
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


def read_studies(data_format: str, path: Path, images: Path | None = None) -> list[Study]:
    """All studies of a data set. Raises DatasetError naming the file."""
    if data_format not in FORMATS:
        raise DatasetError(f"the format is {data_format!r}; allowed: {', '.join(FORMATS)}")
    return list(FORMATS[data_format](path, images))


def _r2gen(path: Path, images: Path | None) -> Iterator[Study]:
    """R2Gen's annotation.json; its images are in `images/` beside it."""
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as R2Gen's annotation.json: {error}") from error
    folder = images or path.parent / "images"
    for name, records in parts.items():
        for record in records:
            yield Study(
                study_id=record["id"],
                images=tuple(folder / image for image in record["image_path"]),
                sections={"report": record["report"]},
                patient_id=str(record.get("subject_id", record["id"].split("_")[0])),
                views=("",) * len(record["image_path"]),
                source="R2Gen",
                split=name.strip() or "test",  # some copies name the test list by four spaces
                labels={},
            )


def _open_radiology(path: Path, _: Path | None) -> Iterator[Study]:
    for split in ("train", "val"):
        for record in read_records(path, split):
            yield Study(
                study_id=record.image.stem,
                images=(record.image,),
                sections={"report": record.caption},
                patient_id=record.patient,
                views=(record.labels.view,),
                source=record.source,
                split=split,
                labels={**record.labels._asdict(), "licence": record.licence},
            )


FORMATS: dict[str, Callable[[Path, Path | None], Iterator[Study]]] = {
    "open_radiology": _open_radiology,
    "r2gen": _r2gen,
    "rexrank": rexrank.read,
}
"""Every format, by the name that the command line gives."""
