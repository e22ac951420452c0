"""Files of data sets: found by name, read with errors that name the place, checked for what they must have."""

import csv
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.datasets.study import DatasetError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""What data sets call the three splits."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".tif", ".tiff", ".webp")


def find_file(path: Path, *names: str) -> Path:
    """The path itself if it is a file, else the first of `names` in it.

    Raises DatasetError that lists the names.
    """
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    if not path.exists():
        raise DatasetError(f"{path} does not exist; give the file, or the folder with {' or '.join(names)}, as path")
    raise DatasetError(
        f"the folder {path} has no {' or '.join(names)}; give the file itself as path, or another format"
    )


def find_image(folder: Path, *names: str) -> Path:
    """The image file of the first name that is there, with that suffix or another; the first name if none is."""
    for name in names:
        exact = folder / name
        if exact.is_file():
            return exact
        for suffix in IMAGE_SUFFIXES:
            other = exact.with_suffix(suffix)
            if other.is_file():
                return other
    return folder / names[0]


def read_rows(
    path: Path, required: Sequence[str], delimiter: str = ",", header: Sequence[str] | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table as (place, values by column); `place` is for messages. `.gz` is unpacked.

    header : the names of the columns where the file has no line for them

    Raises DatasetError for a missing column and for a row with too many or too few fields.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    # Tables with tabs come from programs that do not quote.
    quote = None if delimiter == "\t" else '"'
    try:
        with opener(path, "rt", newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, delimiter=delimiter, quotechar=quote, strict=True)
            columns = list(header or next(lines, ()))
            missing = [name for name in required if name not in columns]
            if missing:
                raise DatasetError(
                    f"{path} has no column {', '.join(missing)}; "
                    f"its columns, separated by {delimiter!r}, are: {', '.join(columns)}"
                )
            for fields in lines:
                place = f"{path}, line {lines.line_num}"
                if fields and len(fields) != len(columns):
                    raise DatasetError(
                        f"{place} has {len(fields)} fields for {len(columns)} columns; complete it, "
                        f'and put a text that contains {delimiter!r} between double quotes (")'
                    )
                if fields:
                    yield place, dict(zip(columns, fields, strict=True))
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError) as error:
        raise DatasetError(f"{path} is no table in UTF-8: {error}; save it again as UTF-8 CSV") from error


def read_json(path: Path) -> Any:
    """The contents of a JSON file. Raises DatasetError with the line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DatasetError(f"{path} is no JSON in UTF-8: {error}; repair or fetch it again") from error


def read_records(path: Path, records: Any, required: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON list as (place, record). Raises DatasetError for what is no object or lacks a key."""
    if not isinstance(records, list):
        raise DatasetError(f"{path} has {type(records).__name__} where a list of objects is expected")
    for i, record in enumerate(records):
        place = f"{path}, entry {i}"
        if not isinstance(record, dict):
            raise DatasetError(f"{place} is {record!r}; expected an object with the keys {', '.join(required)}")
        missing = [key for key in required if key not in record]
        if missing:
            raise DatasetError(f"{place} has no key {', '.join(missing)}; its keys are: {', '.join(record)}")
        yield place, record


def filled(sections: Mapping[str, Any], place: str) -> dict[str, str]:
    """The sections that have a text. Raises DatasetError for what is neither text nor null."""
    for name, text in sections.items():
        if text is not None and not isinstance(text, str):
            raise DatasetError(f"{place}: {name} is {text!r}; expected a text")
    return {name: text for name, text in sections.items() if text and text.strip()}


def split_named(name: str, place: str) -> str:
    """`train`, `val` or `test` for what a data set calls it. Raises DatasetError that lists the names."""
    split = SPLIT_NAMES.get(name.strip().lower())
    if split is None:
        raise DatasetError(f"{place}: the split is {name!r}; allowed: {', '.join(SPLIT_NAMES)}")
    return split
