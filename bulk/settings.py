"""What a job is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bulk.errors import JobError
from bulk.storage import Location
from bulk.studies import StudyList

MAX_SLOTS = 256
"""As for archives: each slot may take megabytes."""


@dataclass(frozen=True)
class Job:
    """What to do.

    source  : the studies
    archive : a .mar, a path that every node can read
    output  : folder for the reports
    options : generation options by name
    prompt  : for models that take one
    slots   : requests that a worker decodes together, at most MAX_SLOTS
    threads : of a worker
    workers : how many; None: as many as there are processors for
    limit   : look at the first so many studies only
    retry_errors : try studies again that got no report in an earlier run
    address : of a Ray cluster; None: this machine

    Raises JobError for a value that is not allowed.
    """

    source: StudyList
    archive: Location
    output: Location
    options: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    slots: int = 8
    threads: int = 1
    workers: int | None = None
    limit: int | None = None
    retry_errors: bool = False
    address: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.slots <= MAX_SLOTS:
            raise JobError(f"--slots is {self.slots}; allowed: 1 to {MAX_SLOTS}")
