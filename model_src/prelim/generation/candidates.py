"""The most likely continuations of requests: all that token selection has to know of the logits, unless it draws.

What reads whole rows of the vocabulary is here, for all requests at once; what is left to decide concerns a few
numbers, on the host.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prelim.errors import RequestError
from prelim.generation.logits import LogitsFilter, largest
from prelim.generation.outcome import isolate

if TYPE_CHECKING:
    from prelim.kernels.continuations import ScoredRows


@dataclass(frozen=True)
class Wanted:
    """What token selection wants to know of the next logits of a request.

    count     : how many continuations, of all rows together
    scores    : of each row, what the log-probabilities of its tokens are added to; None: a single row's logits compete
    processed : what changes the scores first
    history   : the tokens of each row so far, the decoder's start token included; read where `processed` needs it
    generated : how many of them were generated
    """

    count: int
    scores: Sequence[float] | None
    processed: LogitsFilter
    history: Callable[[], list[list[int]]]
    generated: int


@dataclass(frozen=True)
class Candidates:
    """Continuations, best first.

    scores   : of each, minus infinity where fewer tokens are allowed than were wanted
    parents  : the row that each continues
    tokens   : the token that each adds
    logprobs : the model's own log-probability of that token, in nats
    finite   : whether all rows had logits below infinity, and not all minus infinity; if not, the others are empty
    """

    scores: Sequence[float]
    parents: Sequence[int]
    tokens: Sequence[int]
    logprobs: Sequence[float]
    finite: bool = True


Asked = tuple[Tensor, Wanted]
"""Logits of a request, shape (rows, vocab_size), or (1, vocab_size) for the first token, and what it wants to know."""

Finder = Callable[[Sequence[Asked]], list[Candidates | RequestError]]
"""Finds the candidates of all requests, or the errors of their options."""


def finder(*, compiled: bool) -> Finder:
    """What finds candidates; `compiled`: on a CPU whose decoder has compiled steps."""
    return _find_compiled if compiled else _find


def have_largest(logits: Tensor) -> bool:
    """Whether each row, of the last dimension, has a finite largest: it has no NaN, no plus infinity, and a number."""
    return bool(logits.amax(dim=-1).isfinite().all())


def _find(asked: Sequence[Asked]) -> list[Candidates | RequestError]:
    """Candidates by PyTorch's operations, on any device."""
    return [isolate(partial(_find_one, logits.float(), wanted)) for logits, wanted in asked]


def _find_one(logits: Tensor, wanted: Wanted) -> Candidates:
    scores = [0.0] if wanted.scores is None else wanted.scores
    logits = logits.expand(len(scores), -1)
    if not have_largest(logits):
        return Candidates((), (), (), (), finite=False)
    raw = logits.log_softmax(dim=-1)
    competing = logits if wanted.scores is None else raw
    history = torch.tensor(wanted.history(), dtype=torch.int64, device=raw.device)
    competing = wanted.processed(competing, history, wanted.generated)
    competing = competing + torch.tensor(scores, device=raw.device)[:, None]
    values, places = largest(competing, min(wanted.count, raw.shape[1]))
    best, order = values.flatten().topk(wanted.count)
    parents, tokens = order // places.shape[1], places.flatten()[order]
    # All at once: a GPU is waited for.
    numbers = torch.stack([best.double(), parents.double(), tokens.double(), raw[parents, tokens].double()]).tolist()
    best_scores, rows, words, logprobs = numbers
    return Candidates(best_scores, [int(row) for row in rows], [int(word) for word in words], logprobs)


def _find_compiled(asked: Sequence[Asked]) -> list[Candidates | RequestError]:
    """Candidates by one compiled call."""
    from prelim.kernels.continuations import continuations

    made = [isolate(partial(_rows, logits, wanted)) for logits, wanted in asked]
    rows = [one for one in made if not isinstance(one, RequestError)]
    each = iter(continuations(rows) if rows else ())
    return [one if isinstance(one, RequestError) else Candidates(*next(each)) for one in made]


def _rows(logits: Tensor, wanted: Wanted) -> "ScoredRows":
    from prelim.kernels.continuations import ScoredRows

    count = 1 if wanted.scores is None else len(wanted.scores)
    # Rows that begin alike share their logits until here, and each is edited while it is searched.
    logits = logits.float().expand(count, -1).contiguous()
    processed = wanted.processed
    return ScoredRows(
        logits,
        processed.forbid(logits),
        wanted.count,
        wanted.scores,
        wanted.history() if processed.reads_history else (),
        processed.penalty,
        processed.ngram,
        processed.banned(wanted.generated),
    )
