"""A spreadsheet of one's own: CSV, TSV, Excel, parquet or JSON lines, one row an image, next to a folder of images.

    dataset:
      format: table
      path: reports.xlsx
      image_folder: images
      columns: {id: accession, image: file, report: Befund, patient: patient_no}

`columns` says which column is which of COLUMNS; a column of that name, in any case, needs no line, nor does one of
PATIENT_KEYS or SPLIT_KEYS, nor `question` (the prompt) and next to it `answer` (the report). All others are labels.
Rows of one id are one study: those with other texts for the same images, and lists of texts (parquet, JSON), are
further references; turns of `conversations` (LLaVA) are rows. Rows without an id are of the study that their image
names. Where `prompt` is set, every question of a study is a study of its own.
A cell may name several images of a study, with their views: `a.png;b.png` and `PA;LATERAL`.
Parquet may hold the images themselves, as bytes or as `{bytes, path}`: they are written to `image_folder`, or next to
the table. A folder may hold the parts of a table, each with its split in its name or folder
(`training.datasets.table_files.find_tables`); images are then also looked for next to the table that names them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.datasets.files import PROMPT, collect_labels, keep_texts, unpack_list
from training.datasets.image_files import ImageFolder, is_image, write_image
from training.datasets.patients import find_patient
from training.datasets.split_names import SplitReader, name_split
from training.datasets.study import DatasetError, Study
from training.datasets.study_rows import (
    QUESTIONS,
    StudyRow,
    check_one_answer,
    expand_conversation,
    find_column,
    join_labels,
    join_rows,
    separate_questions,
)
from training.datasets.table_files import find_tables, read_any
from training.datasets.values import SHORTENED, find_patient_value, name_patient_keys, read_value

SECTIONS = ("findings", "impression", "indication", "comparison", "report")
SEPARATORS = (";", "|", "\n", ",")
"""Between the names of several images in one cell, and their views."""

COLUMNS = ("id", "image", *SECTIONS, "patient", "view", "split", PROMPT)


def read(path: Path, images: Path | None, columns: Mapping[str, str] | None = None) -> Iterator[Study]:
    """Read the table; images are relative to `images`, or to the folder of the table. CSV and TSV may be `.gz`.

    Raises DatasetError for an unknown or missing column, for an id that lost its last digits, and for rows of one id
    that name two patients or splits.
    """
    given = dict(columns or {})
    if unknown := sorted(set(given) - set(COLUMNS)):
        raise DatasetError(f"dataset.columns has {unknown[0]!r}; allowed: {', '.join(COLUMNS)}")
    root = path.parent if path.is_file() else path
    name = path.name.partition(".")[0]
    written = images or root / f"{name}_images"
    files = find_tables(path)
    several = len({split for _, split in files}) > 1
    studies: dict[str, list[StudyRow]] = {}
    splits, unnamed, named = SplitReader(), "", ""
    for file, of_file in files:
        near = ImageFolder(file.parent)
        rows = ((place, part) for place, values in read_any(file) for part in expand_conversation(place, values))
        for place, values in rows:
            row = _read_row(place, values, given, splits, written)
            row["split"] = row["split"] or of_file
            if images is None and file.parent != root:
                row["image"] = [_name_below(root, near.find(one), one) for one in row["image"]]
            if (study_id := read_value(row["id"])) is None:
                unnamed = unnamed or place
            else:
                named = named or place
            if named and unnamed:
                raise DatasetError(
                    f"{unnamed} has no id, but {named} has one; give every row an id: of cells that are merged in a "
                    "spreadsheet only the first has the value"
                )
            # An image that is in the tables of two splits is a study in each, and shown as a leak.
            key = f"{of_file}/{row['image'][0]}" if several else row["image"][0]
            studies.setdefault(study_id or key, []).append((place, row))
    folder = ImageFolder(images or root, written)
    for study_id, of_study in studies.items():
        yield from _make_studies(study_id, of_study, folder, name)


def _name_below(root: Path, file: Path, name: str) -> str:
    """An image next to the table that names it, seen from the folder of all tables; its name where it is not there."""
    return file.relative_to(root).as_posix() if file.is_file() and file.is_relative_to(root) else name


def _read_row(
    place: str, values: Mapping[str, Any], given: Mapping[str, str], splits: SplitReader, written: Path
) -> dict[str, Any]:
    """The values of a row by COLUMNS, and its labels; images and views also as a list that was written as text.

    Raises DatasetError as `read` does.
    """
    if absent := sorted(column for column in given.values() if column not in values):
        raise DatasetError(
            f"{place} has no column {', '.join(absent)} (dataset.columns); its columns are: {', '.join(values)}"
        )
    columns_of = _find_columns(place, values, given)
    _check_digits(place, values, columns_of)
    if columns_of.get(PROMPT, "").strip().lower() == "question" and "report" not in given:
        check_one_answer(place, {column: values[column] for column in values if _is_answer(column)})
    row: dict[str, Any] = {name: values.get(columns_of.get(name, name)) for name in COLUMNS}
    row["labels"] = collect_labels(values, {columns_of.get(name, name) for name in COLUMNS})
    rest = {column: value for column, value in values.items() if column not in given.values()}
    if "patient" not in given:
        row["patient"] = find_patient_value(rest)
    row["split"] = name_split(row["split"], place) if "split" in given else splits.read(rest, place)
    for name in ("image", "view"):
        row[name] = unpack_list(row[name]) if isinstance(row[name], str) else row[name]
    if separator := _find_separator(row["image"]):
        for name in ("image", "view"):
            if isinstance(row[name], str) and separator in row[name]:
                row[name] = [part.strip() for part in row[name].split(separator)]
    row["image"] = _read_images(row["image"], written)
    if not row["image"]:
        raise DatasetError(
            f"{place} has no image; name its column with dataset.columns (image: ...); the columns are: "
            f"{', '.join(values)}"
        )
    return row


def _find_separator(cell: Any) -> str | None:
    """What separates the names in a cell with several: each has the suffix of an image. None for any other cell."""
    if not isinstance(cell, str):
        return None
    return next(
        (sign for sign in SEPARATORS if sign in cell and all(is_image(name.strip()) for name in cell.split(sign))), None
    )


def _is_answer(column: str) -> bool:
    return column.strip().lower() in ("answer", "report")


def _find_columns(place: str, values: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """The column of each of COLUMNS that is there. Raises DatasetError where two have one name but for the case."""
    found: dict[str, str] = dict(given)
    plain = {*given, *(column.strip().lower() for column in values)}
    for column in values:
        name = column.strip().lower()
        if name in QUESTIONS and QUESTIONS[name] not in plain and (name == "question" or "question" in plain):
            name = QUESTIONS[name]
        if name in COLUMNS and found.setdefault(name, column) != column and name not in given:
            raise DatasetError(
                f"{place} has the columns {found[name]!r} and {column!r}; name one with dataset.columns ({name}: ...)"
            )
    return found


def _check_digits(place: str, values: Mapping[str, Any], columns: Mapping[str, str]) -> None:
    """Raises DatasetError for an id, image or patient that is a number without its last digits."""
    for column in (*(columns.get(name, name) for name in ("id", "image", "patient")), *name_patient_keys(values)):
        value = values.get(column)
        if isinstance(value, str) and SHORTENED.fullmatch(value.strip()):
            raise DatasetError(
                f"{place}: the id {value.strip()!r} has lost its last digits in a spreadsheet, and others may be the "
                f"same now; format the column {column!r} as text, enter its values again from the original, and save it"
            )


def _make_studies(study_id: str, rows: Sequence[StudyRow], folder: ImageFolder, source: str) -> Iterator[Study]:
    """The study of the rows of one id, or one for each question in them.

    An image that is listed twice without an id is of the patient that is given first, as in the format `pairs`.
    """
    _, first = rows[0]
    unnamed = read_value(first["id"]) is None
    key = "image" if unnamed else "id"
    patient = find_column(rows, "patient", key, first=unnamed)
    split = find_column(rows, "split", key)
    for question_id, part in separate_questions(study_id, rows):
        place, first = part[0]
        prompt = keep_texts({PROMPT: first[PROMPT]}, place)
        joined = join_rows(part, folder, image="image", sections=SECTIONS, key="id", asked=bool(prompt))
        yield Study(
            study_id=question_id,
            patient_id=patient or find_patient(study_id),
            source=source,
            split=split,
            labels={**join_labels([row["labels"] for _, row in part]), **prompt},
            **{**joined, "group": first["image"][0] if unnamed else joined["group"]},
        )


def _read_images(cell: Any, folder: Path) -> list[str]:
    """The image names in a cell: one or a list; images that are in it as bytes are written to the folder."""
    names = []
    for item in cell if isinstance(cell, list) else [cell]:
        data = item.get("bytes") if isinstance(item, dict) else item
        if isinstance(data, bytes):
            names.append(write_image(data, folder).name)
        elif name := read_value(item.get("path") if isinstance(item, dict) else item):
            names.append(name)
    return names
