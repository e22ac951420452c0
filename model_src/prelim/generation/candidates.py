"""The most likely continuations of requests: all that token selection has to know of the logits, unless it draws."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from prelim.errors import RequestError
from prelim.generation.logits import LogitsFilter


class Wanted(NamedTuple):
    """What token selection wants to know of the next logits of a request.

    number    : of continuations, of all rows together
    scores    : of each row, what the log-probabilities of its tokens are added to; None: a single row's logits compete
    processed : what changes the scores first
    history   : the tokens of each row so far, the decoder's start token included; read where `processed` needs it
    generated : how many of them were generated
    """

    number: int
    scores: Sequence[float] | None
    processed: LogitsFilter
    history: Callable[[], list[list[int]]]
    generated: int


class Candidates(NamedTuple):
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


def have_largest(logits: Tensor) -> bool:
    """Whether each row, of the last dimension, has a finite largest: it has no NaN, no plus infinity, and a number."""
    return bool(logits.amax(dim=-1).isfinite().all())
