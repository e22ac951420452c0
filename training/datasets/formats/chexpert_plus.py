"""CheXpert Plus: one table, a row an image, with the report of its study cut into sections."""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.delimited import read_rows
from training.datasets.files import find_file, keep_texts
from training.datasets.image_files import ImageFolder
from training.datasets.patients import find_patient
from training.datasets.split_names import name_split
from training.datasets.study import Study
from training.datasets.study_rows import StudyRow, find_column, join_labels, join_views

SECTIONS = {
    "indication": "section_clinical_history",
    "history": "section_history",
    "comparison": "section_comparison",
    "technique": "section_technique",
    "narrative": "section_narrative",
    "findings": "section_findings",
    "impression": "section_impression",
    "summary": "section_summary",
    "report": "report",
}
"""Column by section."""

LABELS = ("age", "sex", "race", "ethnicity")
KEY = "study in path_to_image"
"""What the rows of a study share, for messages."""
FOLDERS = ("", "PNG", "DICOM")
"""In the folder of the table, as the data set is published."""


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read df_chexpert_plus_240401.csv; image paths are relative to its folder, or to PNG/ or DICOM/ in it.

    A study is a folder (`train/patient42142/study5`) of images; `report` is the whole text, next to its sections.

    Raises DatasetError where two rows of a study name different patients, splits or texts.
    """
    table = find_file(path, "df_chexpert_plus_240401.csv")
    folder = ImageFolder(*((images or table.parent) / name for name in FOLDERS))
    required = ("path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id", "split", *SECTIONS.values())
    studies: dict[str, list[StudyRow]] = {}
    for place, row in read_rows(table, required):
        studies.setdefault(row["path_to_image"].rpartition("/")[0], []).append((place, row))
    for study_id, rows in studies.items():
        place, _ = rows[0]
        views = join_views(
            (folder.find(row["path_to_image"]), " ".join(filter(None, (row["frontal_lateral"], row["ap_pa"]))))
            for _, row in rows
        )
        yield Study(
            study_id=study_id,
            images=tuple(views),
            sections=keep_texts({name: find_column(rows, column, KEY) for name, column in SECTIONS.items()}, place),
            patient_id=find_column(rows, "deid_patient_id", KEY) or find_patient(study_id),
            views=tuple(views.values()),
            source="CheXpert Plus",
            split=name_split(find_column(rows, "split", KEY), place),
            labels=join_labels([{name: row[name] for name in LABELS if row.get(name)} for _, row in rows]),
            place=place,
        )
