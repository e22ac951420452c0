"""CheXpert Plus: one table, a row an image, with the report of its study cut into sections."""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.delimited import read_rows
from training.datasets.files import find_file, keep_texts
from training.datasets.image_files import ImageFolder
from training.datasets.patients import find_patient
from training.datasets.split_names import name_split
from training.datasets.study import Study
from training.datasets.values import read_value

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
FOLDERS = ("", "PNG", "DICOM")
"""In the folder of the table, as the data set is published."""


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read df_chexpert_plus_240401.csv; image paths are relative to its folder, or to PNG/ or DICOM/ in it.

    A study is a folder (`train/patient42142/study5`) of images; `report` is the whole text, next to its sections.
    """
    table = find_file(path, "df_chexpert_plus_240401.csv")
    folder = ImageFolder(*((images or table.parent) / name for name in FOLDERS))
    required = ("path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id", "split", *SECTIONS.values())
    studies: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for place, row in read_rows(table, required):
        studies.setdefault(row["path_to_image"].rpartition("/")[0], []).append((place, row))
    for study_id, rows in studies.items():
        place, first = rows[0]
        yield Study(
            study_id=study_id,
            images=tuple(folder.find(row["path_to_image"]) for _, row in rows),
            sections=keep_texts({name: first[column] for name, column in SECTIONS.items()}, place),
            patient_id=read_value(first["deid_patient_id"]) or find_patient(study_id),
            views=tuple(" ".join(filter(None, (row["frontal_lateral"], row["ap_pa"]))) for _, row in rows),
            source="CheXpert Plus",
            split=name_split(first["split"], place),
            labels={name: first[name] for name in LABELS if first.get(name)},
            place=place,
        )
