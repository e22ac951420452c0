"""What the engine needs of token selection: `Sampling` and `BeamSearch` are two."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from prelim.errors import InvalidOption
from prelim.generation.hypothesis import Hypothesis


@dataclass(frozen=True)
class NextTokens:
    """What the rows of a request read next.

    tokens  : Tensor of int64, shape (rows,)
    parents : Tensor of int64, shape (rows,), the row that each row continues; None: every row continues itself
    """

    tokens: Tensor
    parents: Tensor | None = None


class TokenSelection(Protocol):
    """Chooses the tokens of one request."""

    def advance(self, logits: Tensor) -> NextTokens | None:
        """Choose the next tokens.

        logits  : Tensor, shape (rows, vocab_size), or (1, vocab_size) for the first token
        returns : None when all sequences are complete

        Raises InvalidOption when the options allow no token.
        """

    def decided(self) -> list[int]:
        """The tokens of the first returned sequence that no later step can change."""

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """The complete sequences, after `advance` has returned None. Raises InvalidOption as `advance` does."""


def no_token_left() -> InvalidOption:
    """The error of options that forbid every token."""
    return InvalidOption(
        "the options allow no further token: min_new_tokens forbids the end of text, and no_repeat_ngram_size, "
        "banned_phrases or grammar all other tokens; change one of them"
    )
