"""What there is to report on: a folder tree, a table (CSV or Parquet), or ReXrank's JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from bulk.errors import JobError
from bulk.storage import Location
from prelim.formats.json_text import RepeatedKey, load_json

ID_COLUMNS = ("study_id", "id", "uid")
IMAGE_COLUMNS = ("images", "image", "image_path", "path", "file")
_TABLES = ("csv", "parquet", "json")
_ROWS = 4096
"""Rows of a table in memory at a time."""

Ids = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class BulkStudy:
    """One report to write.

    study_id : unique in a job
    images   : URLs or paths of its images, the one to report on first; none where the input does not name them
    """

    study_id: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class StudyList:
    """Where the studies are.

    location     : a folder, or a .csv, .parquet or .json file
    images       : folder that a table's image names are relative to; None: that of the table
    id_column    : of a table; None: the first of ID_COLUMNS that it has
    image_column : of a table; None: the first of IMAGE_COLUMNS that it has
    """

    location: Location
    images: Location | None = None
    id_column: str | None = None
    image_column: str | None = None

    def read(self) -> Iterator[BulkStudy]:
        """The studies, in an order that is the same each time.

        Raises JobError naming the row, where an id is missing, and the file, where it cannot be read.
        """
        suffix = self.location.name.rpartition(".")[2].lower()
        if self.location.is_folder():
            if suffix in _TABLES:
                raise JobError(f"{self.location.url} is a folder; give one of its files, or a folder of images")
            return self._read_folder()
        if not self.location.is_file():
            raise JobError(f"{self.location.url} does not exist; give a folder, or a .csv, .parquet or .json file")
        if suffix not in _TABLES:
            raise JobError(f"{self.location.url}: expected a folder, or a .csv, .parquet or .json file")
        if self.images is not None and "://" not in self.images.url and not self.images.is_folder():
            raise JobError(f"{self.images.url}, which the names of images start at, is not a folder")
        return self._read_rexrank() if suffix == "json" else self._read_table(suffix)

    def _read_folder(self) -> Iterator[BulkStudy]:
        """Every file below a folder; its path is the id. One whose name is not UTF-8 is a study without an image.

        Raises JobError where there is none, as below the place of a volume that is not mounted.
        """
        file = None
        for file in self.location.files(recursive=True):
            name = file.name_in(self.location)
            if is_text(name):
                yield BulkStudy(name, (file.url,))
            else:
                yield BulkStudy(name.encode(errors="surrogateescape").decode(errors="backslashreplace"), ())
        if file is None:
            raise JobError(f"{self.location.url} has no files; give a folder with images")

    def _read_rexrank(self) -> Iterator[BulkStudy]:
        """The studies of ReXrank's JSON, the key image of each first."""
        try:
            entries = load_json(self.location.read())
        except RepeatedKey as error:
            raise JobError(
                f"{self.location.url}: {error.key!r:.80} occurs twice in one object; ids must be unique"
            ) from error
        except ValueError as error:
            raise JobError(f"{self.location.url} is not JSON: {error}") from error
        if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
            raise JobError(f"{self.location.url} is not ReXrank's JSON: an object with one object for every study id")
        for study_id, entry in entries.items():
            names = _as_list(entry.get("image_path"))
            key = entry.get("key_image_path")
            ordered = [*([key] if key else []), *(name for name in names if name != key)]
            yield self._study(study_id, ordered, f"study {study_id}")

    def _read_table(self, suffix: str) -> Iterator[BulkStudy]:
        read = _read_csv if suffix == "csv" else _read_parquet
        number = 0
        try:
            for batch in read(self.location):
                ids = _column(batch, self.id_column, ID_COLUMNS, "--id-column", self.location)
                images = _column(batch, self.image_column, IMAGE_COLUMNS, "--image-column", self.location)
                for study_id, names in zip(ids, images, strict=True):
                    number += 1
                    yield self._study(study_id, _as_list(names), f"row {number}")
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            raise JobError(f"{self.location.url} cannot be read: {error}") from error

    def _study(self, study_id: Any, names: Sequence[Any], place: str) -> BulkStudy:
        """A study of a table; without images where one has no name. Raises JobError naming the row without an id."""
        if study_id is None or study_id == "":
            raise JobError(f"{self.location.url}, {place}: the id is empty")
        if not isinstance(study_id, str | int):
            raise JobError(
                f"{self.location.url}, {place}: the id is {study_id!r:.80} ({type(study_id).__name__}); write ids as "
                "text or whole numbers"
            )
        if not is_text(str(study_id)):
            raise JobError(
                f"{self.location.url}, {place}: the id has half of a surrogate pair, which UTF-8 cannot write"
            )
        if not all(isinstance(name, str) and name and "\0" not in name and is_text(name) for name in names):
            names = ()
        folder = self.images or self.location.parent
        return BulkStudy(str(study_id), tuple(folder.join(name).url for name in names))


def hash_ids(ids: Iterator[str]) -> Ids:
    """64-bit hashes, 8 bytes an id, so that a hundred million fit into memory."""
    digests = (int.from_bytes(blake2b(study_id.encode(), digest_size=8).digest(), "little") for study_id in ids)
    return np.fromiter(digests, dtype=np.uint64)


def check_unique(source: StudyList) -> Ids:
    """Hashes of all ids, in the order of the studies. Raises JobError for an id that occurs twice."""
    hashes = hash_ids(study.study_id for study in source.read())
    ordered = np.sort(hashes)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        doubled = next(s.study_id for s in source.read() if hash_ids(iter([s.study_id]))[0] == twice[0])
        raise JobError(f"{source.location.url}: the id {doubled!r:.80} occurs twice; ids must be unique")
    return hashes


def _read_csv(location: Location) -> Iterator[pa.RecordBatch]:
    # Ids such as 007 and NA stay as they are written.
    with location.open() as file:
        schema = pa.csv.open_csv(file).schema
    yield _without_rows(schema)
    options = pa.csv.ConvertOptions(column_types=dict.fromkeys(schema.names, pa.string()))
    with location.open() as file:
        yield from pa.csv.open_csv(file, convert_options=options)


def _read_parquet(location: Location) -> Iterator[pa.RecordBatch]:
    with location.open() as file:
        table = pq.ParquetFile(file)
        yield _without_rows(table.schema_arrow)
        yield from table.iter_batches(_ROWS)


def _without_rows(schema: pa.Schema) -> pa.RecordBatch:
    """The columns of a table, so that they are checked even where it has no rows."""
    return pa.RecordBatch.from_pylist([], schema)


def is_text(name: str) -> bool:
    """Whether UTF-8, and so Parquet, can hold a name of a file or of a study."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_list(names: Any) -> list[Any]:
    """The images of a study, of which a table may have one or a list."""
    return names if isinstance(names, list) else [] if names is None else [names]


def _column(
    batch: pa.RecordBatch, name: str | None, usual: Sequence[str], option: str, location: Location
) -> list[Any]:
    """Values of a column. Raises JobError where the table does not have it, or has two of the name."""
    found = next((column for column in ([name] if name else usual) if column in batch.schema.names), None)
    if found is None:
        wanted = repr(name) if name else " or ".join(usual)
        raise JobError(
            f"{location.url} has no column {wanted}; it has {', '.join(batch.schema.names)}: name one with {option}"
        )
    if batch.schema.names.count(found) > 1:
        raise JobError(f"{location.url} has two columns {found!r}; rename one, or name another with {option}")
    values: list[Any] = batch.column(found).to_pylist()
    return values
