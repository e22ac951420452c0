"""The folder that a job writes: Parquet files of a few reports each, and what a later run must know of it.

reports/part-<run>-<block>.parquet   at most BLOCK_ROWS reports; written whole or not at all
job.json                             which model and options wrote them
work/                                what is still to do, while a run lasts; removed at its end

A run owns the folder. Workers of an earlier one whose driver was killed live on for seconds; they find out that the
owner has changed, and write nothing.
"""

import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bulk.errors import JobError
from bulk.storage import Location
from bulk.studies import Ids, hash_ids
from prelim.report import UNVERIFIED

BLOCK_ROWS = 32
"""Studies of one file, which are decoded again if a process dies before it is written."""

STAGES = ("read", "queue", "preprocess", "vision", "decode")

SCHEMA = pa.schema(
    [
        pa.field("study_id", pa.string(), nullable=False),
        ("images", pa.list_(pa.string())),
        ("status", pa.string()),
        ("report", pa.string()),
        ("findings", pa.string()),
        ("impression", pa.string()),
        ("finish_reason", pa.string()),
        ("num_tokens", pa.int32()),
        ("token_ids", pa.list_(pa.int32())),
        ("avg_logprob", pa.float64()),
        ("alternatives", pa.list_(pa.string())),
        ("warnings", pa.list_(pa.string())),
        ("error", pa.string()),
        ("message", pa.string()),
        ("model", pa.string()),
        ("model_version", pa.string()),
        ("model_sha256", pa.string()),
        *((f"{stage}_s", pa.float64()) for stage in STAGES),
    ]
)
"""A row is a report (`error` is null), or a study that got none (`report` is null)."""

GRACE_S = 3
"""Seconds in which a worker that has looked at the owner ends writing its file."""

_PARQUET = ".parquet"
_OWNER = "owner"


@dataclass
class ReportRow:
    """One row of the output; see SCHEMA. `error` is the kind of error, `message` what it says."""

    study_id: str
    images: Sequence[str]
    status: str | None = None
    report: str | None = None
    findings: str | None = None
    impression: str | None = None
    finish_reason: str | None = None
    num_tokens: int | None = None
    token_ids: Sequence[int] | None = None
    avg_logprob: float | None = None
    alternatives: Sequence[str] | None = None
    warnings: Sequence[str] | None = None
    error: str | None = None
    message: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.status = UNVERIFIED if self.error is None else None

    def columns(self) -> dict[str, Any]:
        """The values by column name, without those that all rows of a file share."""
        values = asdict(self)
        seconds = values.pop("seconds")
        return values | {f"{stage}_s": seconds.get(stage) for stage in STAGES}


class Output:
    """The folder of one job, as its driver and its workers see it."""

    def __init__(self, folder: Location) -> None:
        self.folder = folder
        self._reports = folder / "reports"
        self._job = folder / "job.json"
        self.work = folder / "work"

    def begin(self, job: Mapping[str, Any]) -> None:
        """Create the folder, or continue in it. Raises JobError if another model or other options wrote it."""
        if self._job.is_file():
            earlier = json.loads(self._job.read())
            changed = [key for key in job if earlier.get(key) != job[key]]
            if not changed:
                return
            if next(self.parts(), None):
                name, before, now = _first_difference(changed[0], earlier.get(changed[0]), job[changed[0]])
                raise JobError(
                    f"{self.folder.url} has reports of another job: its {name} is {before!r:.200}, this one's "
                    f"{now!r:.200}; choose another folder"
                )
        elif self.folder.is_folder() and next(self.folder.files(recursive=True), None):
            raise JobError(f"{self.folder.url} has other files; choose an empty folder, or one that does not exist")
        self._reports.make_folder()
        self.work.make_folder()
        self._job.write(json.dumps(dict(job), indent=1, sort_keys=True).encode())

    def own(self, run: str) -> None:
        """Make a run the owner; what an earlier one was about to write has been written when this returns."""
        owner = self.work / _OWNER
        interrupted = owner.is_file()
        self.clean()
        owner.write(run.encode())
        if interrupted:
            time.sleep(GRACE_S)

    def is_owned_by(self, run: str) -> bool:
        """Whether a run owns the folder."""
        owner = self.work / _OWNER
        return owner.is_file() and owner.read() == run.encode()

    def check_owned_by(self, run: str) -> None:
        """Raise JobError if a run no longer owns the folder."""
        if not self.is_owned_by(run):
            raise JobError(
                f"another run has taken over {self.folder.url}, and continues with what this one has written"
            )

    def parts(self) -> Iterator[Location]:
        """The files with reports."""
        return (part for part in self._reports.files() if part.name.endswith(_PARQUET))

    def done(self) -> Ids:
        """Sorted hashes of the ids that have a row."""
        hashes = [hash_ids(iter(_column(part, "study_id").to_pylist())) for part in self.parts()]
        return np.sort(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)

    def forget_errors(self) -> int:
        """Remove the rows of studies that got no report, so that they are tried again; how many there were."""
        removed = 0
        for part in self.parts():
            with part.open() as file:
                table = pq.read_table(file)
            kept = table.filter(pc.is_null(table["error"]))
            removed += len(table) - len(kept)
            if not len(kept):
                part.remove()
            elif len(kept) < len(table):
                part.write(_parquet_bytes(kept))
        return removed

    def has_part(self, block: str) -> bool:
        """Whether a block has been written."""
        return self._part(block).is_file()

    def write_part(self, block: str, rows: Sequence[ReportRow], shared: Mapping[str, str], run: str) -> None:
        """Write the rows of a block.

        shared : columns that are the same in all of them
        run    : that writes them

        Raises JobError if the run no longer owns the folder.
        """
        self.check_owned_by(run)
        table = pa.Table.from_pylist([row.columns() | dict(shared) for row in rows], SCHEMA)
        self._part(block).write(_parquet_bytes(table))

    def columns(self, *names: str) -> Iterator[pa.Table]:
        """Some columns of all rows, file by file."""
        for part in self.parts():
            with part.open() as file:
                yield pq.read_table(file, columns=list(names))

    def end(self, summary: Mapping[str, Any], run: str) -> None:
        """Write the summary and remove what only a run needs. Raises JobError as `write_part` does."""
        self.check_owned_by(run)
        (self.folder / "summary.json").write(json.dumps(dict(summary), indent=1).encode())
        self.clean()

    def clean(self) -> None:
        """Remove what an earlier run has left."""
        for file in list(self.work.files()):
            file.remove()
        for folder in (self.folder, self._reports, self.work):
            folder.remove_unfinished()

    def _part(self, block: str) -> Location:
        return self._reports / f"part-{block}{_PARQUET}"


def _first_difference(name: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    """A name and its two values; of mappings, the first key that has two values."""
    if isinstance(before, dict) and isinstance(now, dict):
        name = next(key for key in now | before if before.get(key) != now.get(key))
        return name, before.get(name), now.get(name)
    return name, before, now


def _column(part: Location, name: str) -> pa.ChunkedArray:
    with part.open() as file:
        return pq.read_table(file, columns=[name])[name]


def _parquet_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
