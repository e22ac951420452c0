"""MIMIC-CXR and MIMIC-CXR-JPG, as PhysioNet lays them out.

    mimic-cxr-2.0.0-split.csv.gz     : dicom_id, study_id, subject_id, split
    mimic-cxr-2.0.0-metadata.csv.gz  : dicom_id, ViewPosition
    files/p10/p10000032/s50414267/{dicom_id}.jpg (or .dcm), files/p10/p10000032/s50414267.txt
    mimic_cxr_sectioned.csv          : study, impression, findings, last_paragraph, comparison; used instead of the
                                       texts where it is there (written by PhysioNet's mimic-cxr code)

The reports are credentialed data: they stay where their license allows, and out of every repository.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from training.datasets.delimited import read_rows
from training.datasets.files import find_file, keep_texts, read_text
from training.datasets.image_files import ImageFolder
from training.datasets.sections import split_sections
from training.datasets.split_names import name_split
from training.datasets.study import DatasetError, Study
from training.datasets.study_rows import StudyRow, find_column
from training.datasets.values import read_value

REPORTS = ("files", "mimic-cxr-reports/files")
SECTIONED = ("mimic_cxr_sectioned.csv", "mimic_cxr_sectioned.csv.gz")


def read(path: Path, images: Path | None) -> Iterator[Study]:
    """Read the folder with the tables; reports in its `files/` or `mimic-cxr-reports/files/`, images in `files/`.

    Studies of which neither the report nor an image is on this disk are passed over: a part may be downloaded.

    Raises DatasetError for a study with images and without a report, and for rows that contradict each other.
    """
    names = [f"mimic-cxr-2.{minor}.0-{{}}.csv{gz}" for minor in (0, 1) for gz in (".gz", "")]
    splits = find_file(path, *(name.format("split") for name in names))
    root = splits.parent
    metadata = find_file(root, *(name.format("metadata") for name in names))
    views = {name: row["ViewPosition"] for name, row in _read_once(metadata, ("dicom_id", "ViewPosition"))}
    sectioned = _read_sectioned(root)
    folder = ImageFolder(images or root / "files")
    studies: dict[tuple[str, str], list[StudyRow]] = {}
    for place, row in read_rows(splits, ("dicom_id", "study_id", "subject_id", "split")):
        studies.setdefault((row["subject_id"], row["study_id"]), []).append((place, row))
    lacking: list[str] = []
    found = False
    for (subject, study), rows in studies.items():
        name = Path(f"p{subject[:2]}", f"p{subject}", f"s{study}")
        dicoms = list(dict.fromkeys(row["dicom_id"] for _, row in rows))
        files = tuple(folder.find(str(name / f"{dicom}.jpg")) for dicom in dicoms)
        sections = sectioned.get(f"s{study}") if sectioned else _read_report(root, name.with_suffix(".txt"))
        if sections is None:
            lacking.append(str(name.with_suffix(".txt")))
            if any(file.is_file() for file in files):
                raise _make_error(root, lacking[-1])
            continue
        found = True
        place = rows[0][0]
        yield Study(
            study_id=study,
            images=files,
            sections=keep_texts(sections, place),
            patient_id=subject,
            views=tuple(views.get(dicom, "") for dicom in dicoms),
            source="MIMIC-CXR",
            split=name_split(find_column(rows, "split", "study_id"), place),
            labels={},
            place=place,
        )
    if lacking and not found:
        raise _make_error(root, lacking[0])


def _make_error(root: Path, name: str) -> DatasetError:
    return DatasetError(
        f"{' or '.join(str(root / folder / name) for folder in REPORTS)} does not exist; unpack mimic-cxr-reports.zip "
        f"into {root}, or put {SECTIONED[0]} there"
    )


def _read_sectioned(root: Path) -> Mapping[str, Mapping[str, str]]:
    """Sections by study (`s50414267`); empty where the table is not there."""
    table = next((root / name for name in SECTIONED if (root / name).is_file()), None)
    if table is None:
        return {}
    columns = ("study", "findings", "impression", "last_paragraph", "comparison")
    sections = {}
    for study, row in _read_once(table, columns):
        found = {name: row[name] for name in ("findings", "impression", "comparison")}
        # That code's last paragraph is what it took for the report where it found neither.
        lacking = not read_value(row["findings"]) and not read_value(row["impression"])
        sections[study] = found | ({"report": row["last_paragraph"]} if lacking else {})
    return sections


def _read_once(table: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table by the first of its columns. Raises DatasetError for rows that differ in the others."""
    rows: dict[str, list[StudyRow]] = {}
    for place, row in read_rows(table, columns):
        rows.setdefault(row[columns[0]], []).append((place, {column: row[column] for column in columns}))
    for name, of_name in rows.items():
        one = {column: find_column(of_name, column, columns[0]) for column in columns[1:]}
        yield name, {column: value or "" for column, value in one.items()}


def _read_report(root: Path, name: Path) -> dict[str, str] | None:
    file = next((root / folder / name for folder in REPORTS if (root / folder / name).is_file()), None)
    return None if file is None else split_sections(read_text(file))
