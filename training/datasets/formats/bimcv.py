"""BIMCV-COVID19+ and -: folders of subjects and sessions, and a table with the (Spanish) report of each session.

derivatives/labels/labels_covid19_posi.tsv : PatientID (sub-S03047), ReportID (ses-E07985), Report
sub-S03047/ses-E07985/mod-rx/sub-S03047_ses-E07985_run-1_bp-chest_vp-pa_cr.png
"""

import re
from collections.abc import Iterator
from pathlib import Path

from training.datasets.delimited import read_rows
from training.datasets.files import keep_texts
from training.datasets.image_files import find_folder, list_images
from training.datasets.split_names import SplitReader
from training.datasets.study import DatasetError, Study

PATTERN = "derivatives/labels/labels_*.tsv"


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read the table, or that of the folder; sessions without a radiograph (CT alone) have no images."""
    tables = [path] if path.is_file() else sorted(path.glob(PATTERN))
    if len(tables) != 1:
        raise DatasetError(f"{path} has {len(tables)} files {PATTERN}; give the folder with one, or the file, as path")
    root = images or (path if path.is_dir() else path.parents[2])
    splits = SplitReader()
    for place, row in read_rows(tables[0], ("PatientID", "ReportID", "Report"), delimiter="\t"):
        files = list_images(find_folder(root, f"{row['PatientID']}/{row['ReportID']}/mod-rx"))
        views = (re.search(r"_vp-([a-z]+)", file.name) for file in files)
        yield Study(
            study_id=row["ReportID"],
            images=tuple(files),
            sections=keep_texts({"report": row["Report"]}, place),
            patient_id=row["PatientID"],
            views=tuple(view[1] if view else "" for view in views),
            source="BIMCV-COVID19",
            split=splits.read(row, place),
            labels={"labels": row["Labels"]} if row.get("Labels") else {},
            place=place,
        )
