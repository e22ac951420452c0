"""Remembers what killed a worker, so that no study can end a job by killing one worker after another."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from bulk.output import Output
from bulk.studies import BulkStudy

MAX_DEATHS = 2
"""Workers that may die while they decode a study by itself; then it gets an error."""


class Attempts:
    """The attempts at one block.

    A file is there from the first attempt until the block is written. A later attempt that finds it takes the studies
    one after the other and notes each, so that the one at which a worker dies is known.
    """

    def __init__(self, output: Output, block: str) -> None:
        self._file = output.work / f"attempt-{block}.json"
        self.first = not self._file.is_file()
        self._deaths: Counter[str] = Counter()
        if not self.first:
            noted = json.loads(self._file.read())
            self._deaths.update(noted["deaths"])
            if noted["at"] is not None:
                self._deaths[noted["at"]] += 1
        self._note(None)

    def survivors(self, studies: Sequence[BulkStudy]) -> Iterator[tuple[BulkStudy, bool]]:
        """The studies of the block, each with whether it may be decoded; the one in hand is noted."""
        for study in studies:
            allowed = self._deaths[study.study_id] < MAX_DEATHS
            if allowed:
                self._note(study.study_id)
            yield study, allowed
        self._note(None)

    def end(self) -> None:
        """Forget them: the block has been written."""
        self._file.remove()

    def _note(self, at: str | None) -> None:
        self._file.write(json.dumps({"deaths": self._deaths, "at": at}).encode())
