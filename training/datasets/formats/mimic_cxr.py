"""MIMIC-CXR and MIMIC-CXR-JPG, as PhysioNet lays them out.

    mimic-cxr-2.0.0-split.csv.gz     : dicom_id, study_id, subject_id, split
    mimic-cxr-2.0.0-metadata.csv.gz  : dicom_id, ViewPosition
    files/p10/p10000032/s50414267/{dicom_id}.jpg (or .dcm), files/p10/p10000032/s50414267.txt

The reports are credentialed data: they stay where their licence allows, and out of every repository.
"""

from collections.abc import Iterator
from pathlib import Path

from training.datasets.files import find_file, find_image, read_rows, split_named
from training.datasets.sections import split_sections
from training.datasets.study import DatasetError, Study

REPORTS = ("files", "mimic-cxr-reports/files")


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read the folder with the tables; reports in its `files/` or `mimic-cxr-reports/files/`, images in `files/`."""
    names = [f"mimic-cxr-2.{minor}.0-{{}}.csv{gz}" for minor in (0, 1) for gz in (".gz", "")]
    splits = find_file(path, *(name.format("split") for name in names))
    metadata = find_file(splits.parent, *(name.format("metadata") for name in names))
    views = {row["dicom_id"]: row["ViewPosition"] for _, row in read_rows(metadata, ("dicom_id", "ViewPosition"))}
    studies: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for place, row in read_rows(splits, ("dicom_id", "study_id", "subject_id", "split")):
        key = (row["subject_id"], row["study_id"])
        studies.setdefault(key, (split_named(row["split"], place), []))[1].append(row["dicom_id"])
    for (subject, study), (split, dicoms) in studies.items():
        folder = Path(f"p{subject[:2]}", f"p{subject}", f"s{study}")
        files = tuple(find_image((images or splits.parent / "files") / folder, f"{dicom}.jpg") for dicom in dicoms)
        yield Study(
            study_id=study,
            images=files,
            sections=split_sections(_report(splits.parent, folder.with_suffix(".txt"))),
            patient_id=subject,
            views=tuple(views.get(dicom, "") for dicom in dicoms),
            source="MIMIC-CXR",
            split=split,
            labels={},
        )


def _report(root: Path, name: Path) -> str:
    for folder in REPORTS:
        file = root / folder / name
        if file.is_file():
            return file.read_text(encoding="utf-8", errors="replace")
    places = " or ".join(f"{root / folder / name}" for folder in REPORTS)
    raise DatasetError(f"{places} does not exist; unpack mimic-cxr-reports.zip into {root}")
