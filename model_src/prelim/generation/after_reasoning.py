"""Constraints of the report alone, in models that think before they report: nothing is banned in reasoning.

A row's constraints start again where its reasoning ends, and it cannot think again once its report has begun. No token
ends the reasoning and begins the report at once, since nobody would have looked at the part of it that is the report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from prelim.generation.output_config import OutputConfig
from prelim.generation.text_stages import begun
from prelim.generation.token_text import BROKEN, TokenTexts


class Restartable(Protocol):
    """A `Constraint` whose rows can start again."""

    def forbid(self, scores: Tensor) -> Tensor:
        """See `Constraint.forbid`."""

    def advance(self, tokens: Sequence[int], parents: Sequence[int] | None = None) -> None:
        """See `Constraint.advance`."""

    def restart(self, row: int) -> None:
        """Let a row be at the beginning of a text."""


@dataclass(frozen=True)
class RowPlace:
    """How far the text of one row has come.

    thinks : it is in reasoning
    wrote  : its report has begun
    tail   : the last characters, as many as may be the beginning of the mark at which reasoning begins or ends
    """

    thinks: bool
    wrote: bool = False
    tail: str = ""


class ReasoningTokens:
    """What the tokens of one tokenizer do to the reasoning of a text. Raises UnknownDecoder."""

    def __init__(self, tokenizer: Tokenizer, output: OutputConfig, vocab_size: int | None = None) -> None:
        marks = {mark: mark for mark in (output.reasoning_start, output.reasoning_end)}
        pieces = TokenTexts(tokenizer, vocab_size, marks).later
        self._texts = [BROKEN if isinstance(piece, bytes) else piece or "" for piece in pieces]
        self._marks = {True: output.reasoning_end, False: output.reasoning_start}
        self.start = RowPlace(output.begins == "reasoning")
        self._forbidden: dict[RowPlace, Tensor] = {}

    def advance(self, place: RowPlace, token_id: int) -> RowPlace:
        """The place after one more token."""
        mark = self._marks[place.thinks]
        text = place.tail + (self._texts[token_id] if token_id < len(self._texts) else "")
        if mark in text:
            return RowPlace(not place.thinks)
        settled = text[: len(text) - begun(text, mark)]
        return RowPlace(place.thinks, place.wrote or bool(settled.strip()), text[len(settled) :])

    def forbidden(self, place: RowPlace) -> Tensor:
        """Tokens that must not follow, int64, shape (tokens,). Computed once for each place."""
        if place not in self._forbidden:
            mark = self._marks[place.thinks]
            splits = [(i, (place.tail + text).partition(mark)) for i, text in enumerate(self._texts)]
            found = [
                i
                for i, (before, marked, after) in splits
                if marked and (after.strip() if place.thinks else place.wrote or before.strip())
            ]
            self._forbidden[place] = torch.tensor(found, dtype=torch.int64)
        return self._forbidden[place]


class AfterReasoning:
    """Constraints of the rows of one request that hold in their reports; see `Constraint`."""

    def __init__(self, tokens: ReasoningTokens, constraints: Sequence[Restartable], rows: int) -> None:
        self._tokens = tokens
        self._constraints = constraints
        self._places = [tokens.start] * rows

    def forbid(self, scores: Tensor) -> Tensor:
        """Scores with minus infinity for what must not be written in a report, or at its beginning."""
        limited = scores
        for constraint in self._constraints:
            limited = constraint.forbid(limited)
        thinks = torch.tensor([place.thinks for place in self._places], device=scores.device)
        width = scores.shape[1]
        forbidden = [self._tokens.forbidden(place) + row * width for row, place in enumerate(self._places)]
        chosen = torch.where(thinks[:, None], scores, limited)
        return chosen.flatten().index_fill(0, torch.cat(forbidden).to(scores.device), -torch.inf).view_as(scores)

    def advance(self, tokens: Sequence[int], parents: Sequence[int] | None = None) -> None:
        """Take the next token of every row; parents : the row that each row continues, None for itself."""
        before = self._places if parents is None else [self._places[i] for i in parents]
        self._places = [self._tokens.advance(*pair) for pair in zip(before, tokens, strict=True)]
        for constraint in self._constraints:
            constraint.advance(tokens, parents)
            for row, (old, new) in enumerate(zip(before, self._places, strict=True)):
                if old.thinks or new.thinks:
                    constraint.restart(row)
