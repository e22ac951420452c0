"""A finished token sequence, and how it is known to be finished."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

FinishReason = Literal["eos", "length", "stop"]


@dataclass(frozen=True)
class Hypothesis:
    """One finished sequence.

    token_ids     : the generated tokens, the end-of-text token included where there is one
    logprobs      : the log-probability that the model gave each of them, in nats, before any processor
    finish_reason : "eos" the end-of-text token, "length" max_new_tokens, "stop" one of the stop texts
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason

    @property
    def sum_logprob(self) -> float:
        """Log-probability of the sequence, in nats."""
        return math.fsum(self.logprobs)

    @property
    def avg_logprob(self) -> float:
        """Mean log-probability of a token, in nats."""
        return self.sum_logprob / max(len(self.logprobs), 1)


class StopRule:
    """Decides which sequences of generated tokens are complete.

    eos_token_ids  : Tensor of int64, shape (ends,)
    max_new_tokens : a sequence of this length is complete
    stop           : texts that complete a sequence when they appear in it
    detokenize     : token ids -> text, needed for `stop`
    """

    def __init__(
        self,
        eos_token_ids: Tensor,
        max_new_tokens: int,
        stop: tuple[str, ...],
        detokenize: Callable[[Sequence[int]], str],
    ) -> None:
        self.eos_token_ids = eos_token_ids
        self.max_new_tokens = max_new_tokens
        self._ends = frozenset(eos_token_ids.tolist())
        self._stop = stop
        self._detokenize = detokenize

    def completes(self, token_ids: Sequence[int]) -> bool:
        """Whether a sequence of generated tokens, at least one, is complete with its last."""
        return (
            len(token_ids) >= self.max_new_tokens
            or token_ids[-1] in self._ends
            or (bool(self._stop) and self._has_stop(token_ids))
        )

    def hypothesis(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> Hypothesis:
        """The finished sequence and its finish reason."""
        reason: FinishReason = "length"
        if token_ids and token_ids[-1] in self._ends:
            reason = "eos"
        elif self._stop and self._has_stop(token_ids):
            reason = "stop"
        return Hypothesis(tuple(token_ids), tuple(logprobs), reason)

    def _has_stop(self, token_ids: Sequence[int]) -> bool:
        text = self._detokenize(token_ids)
        return any(stop in text for stop in self._stop)
