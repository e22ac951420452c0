"""What options let the rows of a request write, apart from what the model finds likely: no banned phrase, a grammar."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from tokenizers import Tokenizer
from torch import Tensor

from prelim.generation.after_reasoning import AfterReasoning, ReasoningTokens, Restartable
from prelim.generation.banned_phrases import BannedRows, Bans
from prelim.generation.grammar import GrammarRows, Grammars
from prelim.generation.options import GenerationOptions
from prelim.generation.output_config import OutputConfig


class Constraint(Protocol):
    """The rows of one request and how far their texts have come."""

    def forbid(self, scores: Tensor) -> Tensor:
        """Scores, shape (rows, vocab_size), with minus infinity for every token that must not be written next.

        Raises InvalidOption where it costs too much to know them.
        """

    def advance(self, tokens: Sequence[int], parents: Sequence[int] | None = None) -> None:
        """Take the next token of every row; parents : the row that each row continues, None for itself."""


class Constraints:
    """Makes the constraints of requests to one model.

    eos_token_ids : tokens that end a report
    vocab_size    : of the decoder; None where tokenizer and decoder have the same vocabulary
    output        : what the model writes besides its report, to which constraints do not apply
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        eos_token_ids: Sequence[int],
        vocab_size: int | None = None,
        output: OutputConfig | None = None,
    ) -> None:
        marks = () if output is None else output.box_marks
        self._bans = Bans(tokenizer, vocab_size, marks)
        self._grammars = Grammars(tokenizer, eos_token_ids, vocab_size, marks)
        self._thinks = output is not None and output.has_reasoning
        self._make_reasoning = lru_cache(1)(lambda: ReasoningTokens(tokenizer, output or OutputConfig(), vocab_size))

    def check(self, options: GenerationOptions) -> None:
        """Raise InvalidOption for a phrase or a grammar that cannot be kept to with this tokenizer."""
        self._bans.of(options)
        self._grammars.of(options)

    def of(self, options: GenerationOptions) -> tuple[Constraint, ...]:
        """What the options ask for, at the beginning of a text. Raises InvalidOption as `check` does."""
        ban, grammar = self._bans.of(options), self._grammars.of(options)
        found: list[Restartable] = []
        if ban is not None:
            found.append(BannedRows(ban, options.rows))
        if grammar is not None:
            found.append(GrammarRows(grammar, options.rows))
        if found and self._thinks:
            return (AfterReasoning(self._make_reasoning(), found, options.rows),)
        return tuple(found)
