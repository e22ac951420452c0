"""Finds the candidates of all requests at once. What is left to decide concerns a few numbers, on the host."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from prelim.errors import RequestError
from prelim.generation.candidates import Asked, Candidates, Finder, Wanted
from prelim.generation.find_on_device import find_on_device
from prelim.generation.outcome import isolate


def finder(*, compiled: bool) -> Finder:
    """What finds candidates; `compiled`: on a CPU whose decoder has compiled steps."""
    return _compiled() if compiled else find_on_device


def _compiled() -> Finder:
    # Only here, because it compiles.
    from prelim.kernels.continuations import ScoredRows, continuations

    def rows_of(logits: Tensor, wanted: Wanted) -> ScoredRows:
        count = 1 if wanted.scores is None else len(wanted.scores)
        # Rows that begin alike share their logits until here, and each is edited while it is searched.
        logits = logits.float().expand(count, -1).contiguous()
        processed = wanted.processed
        return ScoredRows(
            logits,
            processed.forbid(logits),
            wanted.number,
            wanted.scores,
            wanted.history() if processed.reads_history else (),
            processed.penalty,
            processed.ngram,
            processed.banned(wanted.generated),
        )

    def find(asked: Sequence[Asked]) -> list[Candidates | RequestError]:
        made = [isolate(partial(rows_of, logits, wanted)) for logits, wanted in asked]
        rows = [one for one in made if not isinstance(one, RequestError)]
        each = iter(continuations(rows) if rows else ())
        return [one if isinstance(one, RequestError) else Candidates(*next(each)) for one in made]

    return find
