"""MedGen_AI's table (system 2): `image_path,diagnostic_prompt,target_report`."""

import re
from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import filled, find_file, find_image, read_rows
from training.datasets.study import Study


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read final_dataset_latest.csv; image paths are relative to its folder.

    The images come from CheXpert Plus, whose paths name the patient; any other path is a patient of its own.
    """
    table = find_file(path, "final_dataset_latest.csv")
    for i, (place, row) in enumerate(read_rows(table, ("image_path", "diagnostic_prompt", "target_report"))):
        name = row["image_path"]
        patient = re.search(r"patient\d+", name)
        yield Study(
            study_id=str(i),
            images=(find_image(images or table.parent, name),),
            sections=filled({"report": row["target_report"]}, place),
            patient_id=patient[0] if patient else name,
            views=("",),
            source="MedGen_AI",
            split=None,
            labels={"prompt": row["diagnostic_prompt"]},
        )
