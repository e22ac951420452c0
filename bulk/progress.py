"""How far a job is: a line on a terminal, a line every few seconds in a log."""

from types import TracebackType
from typing import Self

from tqdm import tqdm


class Progress:
    """A context manager that counts studies, with their rate and the time that is left.

    new   : studies of this run
    total : studies of the job; the others have been done by earlier runs
    """

    def __init__(self, new: int, total: int) -> None:
        self._errors = 0
        if new < total:
            tqdm.write(f"{total - new} of {total} studies are done; {new} to do")
        self._bar = tqdm(total=new, unit=" studies", smoothing=0.05, mininterval=1)

    def add(self, reports: int, errors: int) -> None:
        """Count the studies of a block."""
        self._errors += errors
        if self._errors:
            self._bar.set_postfix_str(f"{self._errors} without a report", refresh=False)
        self._bar.update(reports + errors)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Before anything is said of an error: the bar is drawn once more when it is closed.
        self._bar.close()
