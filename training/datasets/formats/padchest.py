"""PadChest: one table, a row an image, with Spanish reports whose words are reduced to their stems."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from training.datasets.delimited import read_rows
from training.datasets.files import find_file, keep_texts
from training.datasets.image_files import ImageFolder
from training.datasets.split_names import SplitReader
from training.datasets.study import DatasetError, Study
from training.datasets.study_rows import StudyRow, find_column, find_one, join_labels, join_views
from training.datasets.values import read_value

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
COLUMNS = ("ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "Report")
LABELS = {"sex": "PatientSex_DICOM", "labels": "Labels"}
"""Column by label."""


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read the table; the images are next to it or in `images/`, in the published folders 0 to 54 or in one."""
    table = find_file(path, TABLE, f"{TABLE}.gz")
    folder = ImageFolder(images) if images else ImageFolder(table.parent / "images", table.parent)
    splits = SplitReader()
    studies: dict[str, list[StudyRow]] = {}
    for place, row in read_rows(table, COLUMNS):
        if read_value(row["StudyID"]) is None:
            raise DatasetError(f"{place} has no StudyID; complete it, or remove the row")
        studies.setdefault(row["StudyID"], []).append((place, row))
    for study_id, rows in studies.items():
        place, _ = rows[0]
        patient, report = (find_column(rows, column, "StudyID") for column in ("PatientID", "Report"))
        views = join_views(
            (folder.find(f"{row['ImageDir']}/{row['ImageID']}", row["ImageID"]), row["Projection"]) for _, row in rows
        )
        yield Study(
            study_id=study_id,
            images=tuple(views),
            sections=keep_texts({"report": report}, place),
            patient_id=patient,
            views=tuple(views.values()),
            source="PadChest",
            split=find_one(((where, splits.read(row, where)) for where, row in rows), "split", "StudyID"),
            labels=join_labels([_read_labels(row) for _, row in rows]),
            place=place,
        )


def _read_labels(row: Mapping[str, str]) -> dict[str, str]:
    return {name: row[column] for name, column in LABELS.items() if row.get(column)} | _find_age(row)


def _find_age(row: Mapping[str, str]) -> dict[str, str]:
    """The age in years, of the years of examination and birth; some births are written as 1930.0."""
    study, birth = row.get("StudyDate_DICOM", "")[:4], row.get("PatientBirth", "")[:4]
    return {"age": str(int(study) - int(birth))} if study.isdecimal() and birth.isdecimal() else {}
