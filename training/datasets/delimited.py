"""Tables of delimited text, CSV and TSV, as data sets publish them and spreadsheets save them."""

import contextlib
import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO, cast

from training.datasets.encodings import find_encoding, refuse_encoding
from training.datasets.study import DatasetError

SEPARATOR = re.compile(r'"?sep=([^"\r\n])"?[,;\t|]*[\r\n]*', re.IGNORECASE)
"""The first line of a table for Excel; other programs write it back as a row, with the commas of its empty cells."""


def read_rows(
    path: Path, required: Sequence[str], delimiter: str = ",", header: Sequence[str] | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table as (place, values by column); `place` is for messages. `.gz` is unpacked.

    A first line `sep=;`, which Excel reads and writes, counts more than `delimiter`. Columns without a name are called
    by their number, blank rows are left out: spreadsheets write both where cells were cleared.

    header : the names of the columns where the file has no line for them

    Raises DatasetError for a missing column, for a row with too many or too few fields, and for what is not a table.
    """
    begin = 1
    with open_table(path) as file:
        try:
            declared = _read_separator(file)
            delimiter, first = declared or delimiter, 2 if declared else 1
            begin = first
            quote = '"' if delimiter != "\t" or _is_quoted(file) else None
            lines = csv.reader(file, delimiter=delimiter, quotechar=quote, strict=True)
            columns = [name or f"column {i}" for i, name in enumerate(header or next(lines, ()), 1)]
            missing = [name for name in required if name not in columns]
            if missing:
                raise DatasetError(
                    f"{path} has no column {', '.join(missing)}; "
                    f"its columns, separated by {delimiter!r}, are: {', '.join(columns)}"
                )
            check_columns(path, columns)
            begin = lines.line_num + first
            for fields in lines:
                place, begin = f"{path}, line {begin}", lines.line_num + first
                if not "".join(fields).strip():
                    continue
                if len(fields) != len(columns):
                    raise DatasetError(
                        f"{place} has {len(fields)} fields for {len(columns)} columns; complete it, "
                        f'and put a text that contains {delimiter!r} between double quotes (")'
                    )
                yield place, dict(zip(columns, fields, strict=True))
        except csv.Error as error:
            raise DatasetError(
                f"{path}, line {begin}: {error}; a text between double quotes ends with one, and has two for each in it"
            ) from error


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[TextIO]:
    """Open a table in UTF-8, or in an encoding of `name_encoding`; it is unpacked where its name ends with .gz.

    Raises DatasetError where it cannot be read, at any line.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", newline="", encoding=find_encoding(path)) as file:
            yield cast(TextIO, file)
    except UnicodeDecodeError as error:
        raise refuse_encoding(path, error) from error
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read: {error}; fetch it again") from error


def find_delimiter(path: Path) -> str:
    """What separates the columns of a table: whatever the header has most of outside quotes, a comma if in doubt.

    Spreadsheets write semicolons where numbers have a comma.

    Raises DatasetError for a file that cannot be read.
    """
    with open_table(path) as file:
        if declared := _read_separator(file):
            return declared
        header = re.sub(r'"[^"]*"', "", file.readline())
    return max(",;\t|", key=header.count)


def _read_separator(file: TextIO) -> str | None:
    """What a first line such as `sep=;` declares, which is passed over; None where there is no such line."""
    if found := SEPARATOR.fullmatch(file.readline()):
        return found[1]
    file.seek(0)
    return None


def _is_quoted(file: TextIO) -> bool:
    """Whether a table with tabs can be read as one whose texts are between quotes where they need it; most are not."""
    begin = file.tell()
    try:
        widths = {len(fields) for fields in csv.reader(file, delimiter="\t", strict=True) if fields}
    except csv.Error:
        widths = set()
    file.seek(begin)
    return len(widths) == 1


def check_columns(path: Path, columns: Iterable[str]) -> None:
    """Raises DatasetError for a table with two columns of one name."""
    for column, count in Counter(columns).items():
        if count > 1:
            raise DatasetError(f"{path} has two columns {column!r}; rename one")
