"""Greedy search and sampling: rows are independent."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prelim.generation.candidates import Candidates, Wanted
from prelim.generation.constraint import Constraint
from prelim.generation.hypothesis import Hypothesis, StopRule
from prelim.generation.logits import LogitsFilter
from prelim.generation.options import GenerationOptions
from prelim.generation.selection import NextTokens, no_token_left


class Sampling:
    """Token selection of one request without beams; greedy where `do_sample` is false.

    Source: `transformers` `generate` with num_beams=1, whose token ids it gives for the same seed.
    """

    def __init__(
        self,
        options: GenerationOptions,
        start_ids: Tensor,
        stop_rule: StopRule,
        pad_token_id: int,
        generator: torch.Generator | None,
        *,
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self._options = options
        self._filter = LogitsFilter(options, stop_rule.eos_token_ids, constraints)
        self._stop_rule = stop_rule
        self._pad_token_id = pad_token_id
        self._generator = generator
        self._start_ids: list[int] = start_ids.tolist()
        # Of each row, with padding after its end.
        self._tokens: list[list[int]] = [[] for _ in range(options.rows)]
        self._logprobs: list[list[float]] = [[] for _ in range(options.rows)]
        self._lengths: list[int | None] = [None] * options.rows  # of complete rows

    def ask(self) -> Wanted | None:
        """The best token, unless it draws."""
        if self._options.do_sample:
            return None
        return Wanted(1, None, self._filter, self._history, len(self._tokens[0]))

    def advance(self, found: Candidates | Tensor) -> NextTokens | None:
        """Choose the next tokens; see `TokenSelection.advance`."""
        if isinstance(found, Tensor):
            tokens, logprobs = self._draw(found)
        elif math.isfinite(found.scores[0]):
            tokens, logprobs = [found.tokens[0]], [found.logprobs[0]]
        else:
            raise no_token_left()
        self._filter.advance(tokens)
        for row, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            self._tokens[row].append(token)
            self._logprobs[row].append(logprob)
            if self._lengths[row] is None and self._stop_rule.completes(self._tokens[row]):
                self._lengths[row] = len(self._tokens[row])
        return None if None not in self._lengths else NextTokens(tokens)

    def _draw(self, logits: Tensor) -> tuple[list[int], list[float]]:
        """The next token of every row and its log-probability."""
        logits = logits.float().expand(self._options.rows, -1)
        history = torch.tensor(self._history(), dtype=torch.int64, device=logits.device)
        scores = self._filter(logits, history, len(self._tokens[0]))
        if scores is not logits:
            scores = self._possible(scores)
        tokens = torch.multinomial(scores.softmax(dim=-1), 1, generator=self._generator)
        complete = torch.tensor([length is not None for length in self._lengths], device=logits.device)
        tokens = tokens[:, 0].masked_fill(complete, self._pad_token_id)
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)
        return tokens.tolist(), logprobs.tolist()

    def _possible(self, scores: Tensor) -> Tensor:
        """Scores from which every row can take a token. Raises InvalidOption where an incomplete row has none."""
        impossible = ~scores.amax(dim=-1).isfinite()
        if not impossible.any():
            return scores
        if any(none and length is None for none, length in zip(impossible.tolist(), self._lengths, strict=True)):
            raise no_token_left()
        # Complete rows take the padding token whatever they draw, but `multinomial` refuses NaN.
        return scores.masked_fill(impossible[:, None], 0.0)

    def _history(self) -> list[list[int]]:
        return [self._start_ids + tokens for tokens in self._tokens]

    def decided(self) -> list[int]:
        """The tokens of the first row, which is returned first."""
        return self._tokens[0][: self._lengths[0]]

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """All rows, in the order in which they were drawn."""
        return tuple(
            self._stop_rule.hypothesis(tokens[:length], logprobs[:length])
            for tokens, logprobs, length in zip(self._tokens, self._logprobs, self._lengths, strict=True)
        )
