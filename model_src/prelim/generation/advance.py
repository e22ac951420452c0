"""One request a step further."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prelim.errors import NonFiniteOutput
from prelim.generation.decode_request import DecodeRequest
from prelim.generation.hypothesis import Hypothesis
from prelim.generation.selection import NextTokens, TokenSelection


def advance(request: DecodeRequest, logits: Tensor, healthy: Sequence[bool]) -> NextTokens | tuple[Hypothesis, ...]:
    """The next tokens of a request, or its sequences when it is over. Raises NonFiniteOutput where there is none.

    Of tokens that were proposed, those count that selection chooses too; the only row then continues the last of them.

    logits  : Tensor, shape (tokens or more, vocab_size)
    healthy : whether they are all finite
    """
    if request.selection is None:
        raise ValueError("the request has not been prefilled")
    proposed = request.tokens[1:].tolist() if request.drafts else []
    place = 0
    while True:
        own = slice(place, place + request.options.rows)
        if not all(healthy[own]):
            raise NonFiniteOutput("the decoder computed NaN or infinity for this request")
        chosen = request.selection.advance(logits[own])
        request.position += 1
        if chosen is None:
            return _sequences(request.selection)
        if place == len(proposed) or int(chosen.tokens[0]) != proposed[place]:
            return NextTokens(chosen.tokens, torch.tensor([place])) if place else chosen
        place += 1


def _sequences(selection: TokenSelection) -> tuple[Hypothesis, ...]:
    """All sequences of a request that is over. Raises NonFiniteOutput where one has no probability."""
    hypotheses = selection.hypotheses()
    if not all(math.isfinite(logprob) for hypothesis in hypotheses for logprob in hypothesis.logprobs):
        raise NonFiniteOutput("the log-probability of this report is not finite")
    return hypotheses
