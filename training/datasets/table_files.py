"""The files of a table: one of any kind, or the parts of one in a folder, as Hugging Face and others publish them."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.datasets.delimited import check_columns, find_delimiter, read_rows
from training.datasets.files import read_json, read_json_lines, read_records
from training.datasets.split_names import find_split
from training.datasets.study import DatasetError
from training.datasets.study_rows import StudyRow

KINDS = ("csv", "tsv", "xlsx", "parquet", "jsonl", "ndjson", "json")
"""Suffixes without the dot; also followed by `.gz` where it is text."""

TEXT = "txt"
"""Excel's "Unicode text" and other tables; in a folder such files are notes, so that it has to be given itself."""

_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(?=\.)")

DIGITS = 15
"""Of a number in a spreadsheet; those after them are lost."""


def find_tables(path: Path) -> list[tuple[Path, str | None]]:
    """The tables of a data set, each with the split that its name or folder says; a file by itself has none.

    A folder has one table, or several of one kind with a split in each path: `data/train-00000-of-00002.parquet`,
    `train.csv` and `test.csv`, `train/metadata.jsonl`.

    Raises DatasetError for a folder without tables or with some that are not parts of one, and for missing parts.
    """
    if path.is_file():
        return [(path, None)]
    if not path.is_dir():
        raise DatasetError(f"{path} does not exist; give the table, or a folder with it, as path")
    files = sorted(file for file in path.rglob("*") if _name_kind(file) in KINDS and _is_visible(file, path))
    # A folder's JSON files are often notes on its tables.
    files = [file for file in files if _name_kind(file) != "json"] or [
        file for file in files if find_split(file.relative_to(path).as_posix())
    ]
    if not files:
        raise DatasetError(f"{path} is a folder without a table (.{', .'.join(KINDS)}); give the file itself as path")
    _check_parts(files)
    if len(files) == 1:
        return [(files[0], None)]
    found = [(file, find_split(file.relative_to(path).as_posix())) for file in files]
    names = ", ".join(file.relative_to(path).as_posix() for file in files[:4])
    if len({_name_kind(file) for file in files}) > 1 or any(split is None for _, split in found):
        if all(_PART.match(file.name) for file in files) and len({_PART.sub("", file.name) for file in files}) == 1:
            return [(file, None) for file in files]
        raise DatasetError(
            f"{path} has several tables: {names}; give one file, or a folder of tables of one kind, each with its "
            "split in its name or folder (train.csv, test.csv)"
        )
    return found


def _check_parts(files: list[Path]) -> None:
    """Raises DatasetError where one of `train-00000-of-00002.parquet` and its like is not there."""
    parts: dict[tuple[Path, str, int], set[int]] = {}
    for file in files:
        if found := _PART.match(file.name):
            parts.setdefault((file.parent, found[1], int(found[3])), set()).add(int(found[2]))
    for (folder, name, total), there in parts.items():
        if missing := sorted(set(range(total)) - there):
            raise DatasetError(
                f"{folder} has {len(there)} of {total} parts of {name}; missing: {name}-{missing[0]:05}-of-{total:05}: "
                "fetch it, or give one file as path"
            )


def _name_kind(file: Path) -> str:
    return file.name.lower().removesuffix(".gz").rpartition(".")[2]


def _is_visible(file: Path, root: Path) -> bool:
    """Whether no part of the path below the root is hidden, as caches and what a Mac writes are."""
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)


def read_any(file: Path) -> Iterator[StudyRow]:
    """The rows of a table of any kind as (place, values by column); a blank cell is None."""
    kind = _name_kind(file)
    rows: Iterator[StudyRow]
    if kind in ("csv", "tsv", TEXT):
        delimiter = "\t" if kind == "tsv" else find_delimiter(file)
        rows = read_rows(file, (), delimiter)
    elif kind == "xlsx":
        rows = _read_excel(file)
    elif kind == "parquet":
        rows = _read_parquet(file)
    elif kind in ("jsonl", "ndjson"):
        rows = read_json_lines(file)
    elif kind == "json":
        rows = read_records(file, read_json(file), ())
    else:
        raise DatasetError(f"{file} is not a table; allowed: .{', .'.join((*KINDS, TEXT))}")
    for place, row in rows:
        yield place, {column: _read_cell(value) for column, value in row.items()}


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
