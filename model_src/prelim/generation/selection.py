"""What the engine needs of token selection: `Sampling` and `BeamSearch` are two."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from prelim.errors import InvalidOption
from prelim.generation.candidates import Candidates, Wanted
from prelim.generation.hypothesis import Hypothesis


@dataclass(frozen=True)
class NextTokens:
    """What the rows of a request read next.

    tokens  : of each row
    parents : the row that each row continues; None: every row continues itself
    """

    tokens: Sequence[int]
    parents: Sequence[int] | None = None


class TokenSelection(Protocol):
    """Chooses the tokens of one request: says what it wants to know of the next logits, and takes what was found."""

    def ask(self) -> Wanted | None:
        """What it chooses the next tokens by; None: by the logits themselves."""

    def advance(self, found: Candidates | Tensor) -> NextTokens | None:
        """Choose the next tokens.

        found   : what it wanted to know; Tensor: the logits, shape (rows, vocab_size), or (1, vocab_size) for the first
                  token
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
