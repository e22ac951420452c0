"""One request a step further."""

import math
from collections.abc import Sequence

from torch import Tensor

from prelim.errors import NonFiniteOutput, RequestError
from prelim.generation.candidates import Candidates, Finder, have_largest
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.hypothesis import Hypothesis
from prelim.generation.selection import NextTokens, TokenSelection

Seen = Candidates | Tensor | RequestError
"""What a request chooses its next tokens by, see `TokenSelection.advance`, or why that could not be found."""


def look(asked: Sequence[tuple[DecodeRequest, Tensor]], find: Finder) -> list[Seen]:
    """What requests choose their next tokens by; candidates are found for all that want them at once.

    asked : requests and their logits, shape (rows or more, vocab_size), or (1, vocab_size) for the first token
    """
    seen: list[Seen | None] = []
    wanted = []
    for request, logits in asked:
        own = logits[: request.options.rows]
        wants = None if request.selection is None else request.selection.ask()
        seen.append(own if wants is None else None)
        if wants is not None:
            wanted.append((own, wants))
    found = iter(find(wanted))
    return [next(found) if one is None else one for one in seen]


def advance(request: DecodeRequest, seen: Seen) -> NextTokens | tuple[Hypothesis, ...]:
    """The next tokens of a request, or its sequences when it is over. Raises NonFiniteOutput where there is none."""
    if isinstance(seen, RequestError):
        raise seen
    if request.selection is None:
        raise ValueError("the request has not been prefilled")
    if not (have_largest(seen) if isinstance(seen, Tensor) else seen.finite):
        raise NonFiniteOutput("the decoder computed NaN or infinity for this request")
    chosen = request.selection.advance(seen)
    request.position += 1
    return _sequences(request.selection) if chosen is None else chosen


def _sequences(selection: TokenSelection) -> tuple[Hypothesis, ...]:
    """All sequences of a request that is over. Raises NonFiniteOutput where one has no probability."""
    hypotheses = selection.hypotheses()
    if not all(math.isfinite(logprob) for hypothesis in hypotheses for logprob in hypothesis.logprobs):
        raise NonFiniteOutput("the log-probability of this report is not finite")
    return hypotheses
