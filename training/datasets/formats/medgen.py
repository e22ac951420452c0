"""MedGen_AI's table (system 2): `image_path,diagnostic_prompt,target_report`."""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.delimited import read_rows
from training.datasets.files import PROMPT, collect_labels, find_file, keep_texts
from training.datasets.image_files import ImageFolder
from training.datasets.membership import read_membership
from training.datasets.split_names import SplitReader
from training.datasets.study import Study

COLUMNS = ("image_path", "diagnostic_prompt", "target_report")


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read final_dataset_latest.csv; image paths are relative to its folder.

    The images come from CheXpert Plus, whose paths name the patient; with any other path the patient is unknown, unless
    a further column names it (`read_membership`).
    """
    table = find_file(path, "final_dataset_latest.csv")
    folder = ImageFolder(images or table.parent)
    splits = SplitReader()
    for i, (place, row) in enumerate(read_rows(table, COLUMNS)):
        patient, split, keys = read_membership(row, place, splits, row["image_path"])
        yield Study(
            study_id=str(i),
            images=(folder.find(row["image_path"]),),
            sections=keep_texts({"report": row["target_report"]}, place),
            patient_id=patient,
            views=("",),
            source="MedGen_AI",
            split=split,
            labels={PROMPT: row["diagnostic_prompt"], **collect_labels(row, (*COLUMNS, *keys))},
            group=row["image_path"],
            place=place,
        )
