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
from bulk.studies import Ids, hash_ids, is_text
from prelim.formats.json_text import RepeatedKey, load_json
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

SUMMARY = "summary.json"

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
        """Create the folder, or continue in it. Raises JobError if it has reports of another model or other options."""
        if self._job.is_file():
            earlier = _read_object(self._job)
            changed = [key for key in job if earlier is None or earlier.get(key) != job[key]]
            if not changed:
                self._make_folders()
                return
            if next(self.parts(), None):
                if earlier is None:
                    raise JobError(
                        f"{self._job.url} is damaged, and does not say which model and options wrote the reports next "
                        "to it; restore it, or choose another folder"
                    )
                name, before, now = _first_difference(changed[0], earlier.get(changed[0]), job[changed[0]])
                raise JobError(
                    f"{self.folder.url} has reports of another job: its {name} is {before!r:.200}, this one's "
                    f"{now!r:.200}; choose another folder"
                )
        elif self.folder.is_file():
            raise JobError(f"{self.folder.url} is a file; choose a folder for the reports")
        elif self.folder.has_files():
            raise JobError(f"{self.folder.url} has other files; choose an empty folder, or one that does not exist")
        self._make_folders()
        self._job.write(json.dumps(dict(job), indent=1, sort_keys=True).encode())

    def _make_folders(self) -> None:
        """Make what a copy of the output, or a bucket, may lack: a folder without files."""
        self._reports.make_folder()
        self.work.make_folder()

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
        return (part for part in self._reports.files() if part.name.endswith(_PARQUET) and is_text(part.name))

    def done(self) -> Ids:
        """Sorted hashes of the ids that have a row.

        Raises JobError for damaged files, the first and how many, and for a second row of a study.
        """
        hashes: list[Ids] = []
        damaged: list[JobError] = []
        for part in self.parts():
            try:
                hashes.append(hash_ids(iter(_read_part(part, ("study_id",))["study_id"].to_pylist())))
            except JobError as error:
                damaged.append(error)
        if damaged:
            more = f" (and {len(damaged) - 1} more there)" if damaged[1:] else ""
            raise JobError(f"{damaged[0]}{more}") from damaged[0]
        done = np.sort(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)
        if twice := int((done[1:] == done[:-1]).sum()):
            raise JobError(f"{self._reports.url} has a second row for {twice} studies; remove what was copied there")
        return done

    def forget_errors(self) -> int:
        """Remove the rows of studies that got no report, so that they are tried again; how many there were."""
        removed = 0
        for part in self.parts():
            table = _read_part(part, SCHEMA.names)
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
        """Some columns of all rows, file by file. Raises JobError for a damaged one."""
        for part in self.parts():
            yield _read_part(part, names)

    def summary(self) -> dict[str, Any]:
        """What `end` has written; empty where there is none, or it is damaged."""
        file = self.folder / SUMMARY
        return (_read_object(file) if file.is_file() else None) or {}

    def end(self, summary: Mapping[str, Any], run: str) -> None:
        """Write the summary and remove what only a run needs. Raises JobError as `write_part` does."""
        self.check_owned_by(run)
        (self.folder / SUMMARY).write(json.dumps(dict(summary), indent=1).encode())
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


def _read_object(file: Location) -> dict[str, Any] | None:
    """The JSON object in a file; None where it is damaged, as after a loss of power."""
    try:
        contents = load_json(file.read())
    except (ValueError, RepeatedKey):
        return None
    return contents if isinstance(contents, dict) else None


def _read_part(part: Location, names: Sequence[str]) -> pa.Table:
    """Columns of a file with reports. Raises JobError for a damaged one, and OSError where it cannot be read."""
    contents = part.read()
    try:
        # Arrow raises OSError for some damage; an error of the disk or the network was raised above.
        table = pq.read_table(pa.BufferReader(contents), columns=list(names))
        table.validate(full=True)
        return table.select(list(names)).cast(pa.schema([SCHEMA.field(name) for name in names]))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise JobError(
            f"{part.url} is damaged, or no file of a job ({reason:.200}); remove it, and start the job again, which "
            "writes the reports of its studies once more"
        ) from error


def _parquet_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()
