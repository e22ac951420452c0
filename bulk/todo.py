"""What a run has to do, as Parquet files whose row groups are the blocks.

The job hands out numbers of blocks, and workers read their rows from the files: the driver's memory does not grow
with the number of studies.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bulk.output import BLOCK_ROWS, Output
from bulk.storage import Location
from bulk.studies import BulkStudy, StudyList, check_unique

_FILE_BLOCKS = 512
"""Blocks of one file, whose directory is read with each of them."""

_SCHEMA = pa.schema([("study_id", pa.string()), ("images", pa.list_(pa.string()))])


@dataclass(frozen=True)
class Todo:
    """The studies that have no row yet.

    folder  : of the files
    run     : names the blocks of this run, the same for the same studies
    blocks  : how many
    studies : how many, in all blocks
    total   : studies of the source, those of earlier runs included
    """

    folder: Location
    run: str
    blocks: int
    studies: int
    total: int

    def name(self, block: int) -> str:
        """Name of a block in the output, the same whoever writes it."""
        return f"{self.run}-{block:07d}"

    def read(self, block: int) -> list[BulkStudy]:
        """The studies of a block."""
        number, row_group = divmod(block, _FILE_BLOCKS)
        with _file(self.folder, self.run, number).open() as file:
            rows = pq.ParquetFile(file).read_row_group(row_group).to_pylist()
        return [BulkStudy(row["study_id"], tuple(row["images"])) for row in rows]


def write_todo(source: StudyList, output: Output, limit: int | None = None) -> Todo:
    """List what the output has no row for.

    limit : look at so many studies only, the first ones

    Raises JobError as `StudyList.read` does, and for an id that occurs twice.
    """
    hashes = check_unique(source)[:limit]
    missing = ~np.isin(hashes, output.done())
    run = blake2b(hashes[missing].tobytes(), digest_size=6).hexdigest()
    studies = (study for study, wanted in zip(source.read(), missing, strict=False) if wanted)
    blocks = number = 0
    while file_blocks := list(islice(_blocks(studies), _FILE_BLOCKS)):
        with _file(output.work, run, number).create() as sink, pq.ParquetWriter(sink, _SCHEMA) as writer:
            for block in file_blocks:
                writer.write_table(block, row_group_size=BLOCK_ROWS)
        blocks, number = blocks + len(file_blocks), number + 1
    return Todo(output.work, run, blocks, int(missing.sum()), len(hashes))


def _file(folder: Location, run: str, number: int) -> Location:
    return folder / f"todo-{run}-{number:05d}.parquet"


def _blocks(studies: Iterable[BulkStudy]) -> Iterator[pa.Table]:
    studies = iter(studies)
    while block := list(islice(studies, BLOCK_ROWS)):
        rows = [{"study_id": study.study_id, "images": list(study.images)} for study in block]
        yield pa.Table.from_pylist(rows, _SCHEMA)
