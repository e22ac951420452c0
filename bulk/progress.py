"""How far a job is: a bar on a terminal; elsewhere a line of JSON every few seconds, as in the logs of the servers."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

from terminal.log_lines import format_line
from terminal.program import CALM_S


class Progress:
    """A context manager that counts studies, with their rate and the time that is left.

    new   : studies of this run
    total : studies of the job; the others have been done by earlier runs
    """

    def __init__(self, new: int, total: int) -> None:
        self._reports = self._errors = 0
        self._new, self._total = new, total
        watched = sys.stderr.isatty()
        if watched and new < total:
            tqdm.write(f"{total - new} of {total} studies are done; {new} to do")
        self._bar = tqdm(total=new, unit=" studies", smoothing=0.05, mininterval=1, disable=not watched)
        self._logged = time.monotonic()
        self._log("begun")

    def add(self, reports: int, errors: int) -> None:
        """Count the studies of a block."""
        self._reports += reports
        self._errors += errors
        if self._errors:
            self._bar.set_postfix_str(f"{self._errors} without a report", refresh=False)
        self._bar.update(reports + errors)
        if time.monotonic() - self._logged >= CALM_S:
            self._logged = time.monotonic()
            self._log("progress")

    def _log(self, event: str) -> None:
        if self._bar.disable:
            counts = {"studies": self._total, "new": self._new, "reports": self._reports, "errors": self._errors}
            print(format_line("bulk", event, **counts), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Before anything is said of an error: the bar is drawn once more when it is closed.
        self._bar.close()
        self._log("ended" if kind is None else "broken_off")
