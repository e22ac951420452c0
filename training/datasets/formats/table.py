"""A spreadsheet of one's own: CSV, TSV, Excel, parquet or JSON lines, one row an image, next to a folder of images.

    dataset:
      format: table
      path: reports.xlsx
      image_folder: images
      columns: {id: accession, image: file, report: Befund, patient: patient_no}

`columns` says which column is which of COLUMNS; a column of that name, in any case, needs no line, nor does one of
PATIENT_KEYS or SPLIT_KEYS. All others are labels. Rows of one id are one study: those with other texts for the same
images, and lists of texts (parquet, JSON lines), are further references. Rows without an id are of the study that their
image names. Where `prompt` is set, every question of a study is a study of its own.
Parquet may hold the images themselves, as bytes or as `{bytes, path}`: they are written to `image_folder`,
or next to the table.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.datasets.delimited import check_columns, find_delimiter, read_rows
from training.datasets.files import PROMPT, collect_labels, find_file, keep_texts, read_json_lines
from training.datasets.image_files import ImageFolder, write_image
from training.datasets.patients import find_patient
from training.datasets.split_names import SplitReader, name_split
from training.datasets.study import DatasetError, Study
from training.datasets.study_rows import StudyRow, join_rows, separate_questions
from training.datasets.values import SHORTENED, find_patient_value, name_patient_keys, read_value

SECTIONS = ("findings", "impression", "indication", "comparison", "report")
COLUMNS = ("id", "image", *SECTIONS, "patient", "view", "split", PROMPT)

DIGITS = 15
"""Of a number in a spreadsheet; those after them are lost."""


def read(path: Path, images: Path | None, columns: Mapping[str, str] | None = None) -> Iterator[Study]:
    """Read the table; images are relative to `images`, or to the folder of the table. CSV and TSV may be `.gz`.

    Raises DatasetError for an unknown or missing column, for an id that lost its last digits, and for rows of one id
    that name two patients or splits.
    """
    given = dict(columns or {})
    if unknown := sorted(set(given) - set(COLUMNS)):
        raise DatasetError(f"dataset.columns has {unknown[0]!r}; allowed: {', '.join(COLUMNS)}")
    file = find_file(path)
    written = images or file.parent / f"{file.name.partition('.')[0]}_images"
    folder = ImageFolder(images or file.parent, written)
    studies: dict[str, list[StudyRow]] = {}
    splits, unnamed, named = SplitReader(), "", ""
    for place, values in read_any(file):
        if absent := sorted(column for column in given.values() if column not in values):
            raise DatasetError(
                f"{place} has no column {', '.join(absent)} (dataset.columns); its columns are: {', '.join(values)}"
            )
        columns_of = _find_columns(place, values, given)
        _check_digits(place, values, columns_of)
        row = {name: values.get(columns_of.get(name, name)) for name in COLUMNS}
        row["labels"] = collect_labels(values, {columns_of.get(name, name) for name in COLUMNS})
        rest = {column: value for column, value in values.items() if column not in given.values()}
        if "patient" not in given:
            row["patient"] = find_patient_value(rest)
        row["split"] = name_split(row["split"], place) if "split" in given else splits.read(rest, place)
        row["image"] = _read_images(row["image"], written)
        if not row["image"]:
            raise DatasetError(
                f"{place} has no image; name its column with dataset.columns (image: ...); the columns are: "
                f"{', '.join(values)}"
            )
        if (study_id := read_value(row["id"])) is None:
            unnamed = unnamed or place
        else:
            named = named or place
        if named and unnamed:
            raise DatasetError(
                f"{unnamed} has no id, but {named} has one; give every row an id: of cells that are merged in a "
                "spreadsheet only the first has the value"
            )
        studies.setdefault(study_id or row["image"][0], []).append((place, row))
    for study_id, rows in studies.items():
        yield from _make_studies(study_id, rows, folder, file.stem)


def _find_columns(place: str, values: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """The column of each of COLUMNS that is there. Raises DatasetError where two have one name but for the case."""
    found: dict[str, str] = dict(given)
    for column in values:
        name = column.strip().lower()
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

    An image that is listed twice without an id counts as what it is listed as first, as in the format `pairs`.
    """
    place, first = rows[0]
    for name in ("patient", "split"):
        if len({read_value(row[name]) for _, row in rows}) > 1 and read_value(first["id"]) is not None:
            raise DatasetError(f"{place} and {rows[1][0]} are of one id, with two values of {name}; correct one")
    patient = read_value(first["patient"]) or find_patient(study_id)
    for question_id, part in separate_questions(study_id, rows):
        place, first = part[0]
        prompt = keep_texts({PROMPT: first[PROMPT]}, place)
        yield Study(
            study_id=question_id,
            patient_id=patient,
            source=source,
            split=first["split"],
            labels={**first["labels"], **prompt},
            **join_rows(part, folder, image="image", sections=SECTIONS, key="id", asked=bool(prompt)),
        )


def read_any(file: Path) -> Iterator[StudyRow]:
    """The rows of a table of any kind as (place, values by column); a blank cell is None."""
    kind = file.name.lower().removesuffix(".gz").rpartition(".")[2]
    rows: Iterator[StudyRow]
    if kind in ("csv", "tsv"):
        delimiter = "\t" if kind == "tsv" else find_delimiter(file)
        rows = read_rows(file, (), delimiter)
    elif kind == "xlsx":
        rows = _read_excel(file)
    elif kind == "parquet":
        rows = _read_parquet(file)
    elif kind in ("jsonl", "ndjson"):
        rows = read_json_lines(file)
    else:
        raise DatasetError(f"{file} is not a table; allowed: .csv, .tsv, .xlsx, .parquet, .jsonl, .ndjson")
    for place, row in rows:
        yield place, {column: _read_cell(value) for column, value in row.items()}


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


def _read_cell(value: Any) -> Any:
    """A cell as text where it is a whole number, as ids are; None where it is blank or not a number."""
    if isinstance(value, float):
        return None if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None if isinstance(value, str) and not value.strip() else value


def _read_excel(file: Path) -> Iterator[StudyRow]:
    from zipfile import BadZipFile

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        sheet = load_workbook(file, read_only=True, data_only=True).worksheets[0]
        rows = (tuple(map(_read_excel_cell, cells)) for cells in sheet.iter_rows())
        columns = [str(cell) if cell is not None else f"column {i}" for i, cell in enumerate(next(rows, ()), 1)]
        check_columns(file, columns)
        for number, cells in enumerate(rows, 2):
            if any(cell is not None for cell in cells):
                yield f"{file}, row {number}", dict(zip(columns, cells, strict=False))
    except (OSError, BadZipFile, InvalidFileException, KeyError) as error:
        raise DatasetError(f"{file} is not an Excel file: {error}; save it again as .xlsx or CSV") from error


def _read_excel_cell(cell: Any) -> Any:
    """The value; a number with the zeros before it that its format shows: 7 as `0007` is the id 0007.

    A number of over DIGITS digits is given as a spreadsheet shows it: `1.23456789012346E+18`.
    """
    if isinstance(cell.value, int | float) and abs(cell.value) >= 10**DIGITS:
        return f"{cell.value:.{DIGITS - 1}E}"
    if isinstance(cell.value, int) and re.fullmatch("0+", cell.number_format or ""):
        return str(cell.value).zfill(len(cell.number_format))
    return cell.value


def _read_parquet(file: Path) -> Iterator[StudyRow]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
        check_columns(file, table.schema_arrow.names)
        number = 0
        for batch in table.iter_batches(1024):  # rows may hold whole images
            for row in batch.to_pylist():
                yield f"{file}, row {number}", row
                number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file} is not a complete parquet file: {error}; fetch it again") from error
