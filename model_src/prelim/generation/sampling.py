"""Greedy search and sampling: rows are independent."""

from collections.abc import Sequence

import torch
from torch import Tensor

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
        rows, device = options.rows, start_ids.device
        self._options = options
        self._filter = LogitsFilter(options, stop_rule.eos_token_ids, constraints)
        self._stop_rule = stop_rule
        self._pad_token_id = pad_token_id
        self._generator = generator
        self._history = start_ids.expand(rows, -1)
        self._start = len(start_ids)
        self._unfinished = torch.ones(rows, dtype=torch.bool, device=device)
        self._lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        self._logprobs: list[Tensor] = []  # of each step, shape (rows,)

    def advance(self, logits: Tensor) -> NextTokens | None:
        """Choose the next tokens; see `TokenSelection.advance`."""
        logits = logits.float().expand(self._options.rows, -1)
        scores = self._filter(logits, self._history, self._history.shape[1] - self._start)
        if scores is not logits:
            scores = self._possible(scores)
        if self._options.do_sample:
            tokens = torch.multinomial(scores.softmax(dim=-1), 1, generator=self._generator)[:, 0]
        else:
            tokens = scores.argmax(dim=-1)
        tokens = tokens.where(self._unfinished, self._pad_token_id)
        self._filter.advance(tokens)
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)
        self._logprobs.append(logprobs)
        self._lengths += self._unfinished
        self._history = torch.cat([self._history, tokens[:, None]], dim=1)
        self._unfinished = self._unfinished & ~self._stop_rule.complete(self._history[:, self._start :])
        return NextTokens(tokens) if self._unfinished.any() else None

    def _possible(self, scores: Tensor) -> Tensor:
        """Scores from which every row can take a token. Raises InvalidOption where an incomplete row has none."""
        impossible = ~scores.amax(dim=-1).isfinite()
        if not impossible.any():
            return scores
        if (impossible & self._unfinished).any():
            raise no_token_left()
        # Complete rows take the padding token whatever they draw, but `multinomial` refuses NaN.
        return scores.masked_fill(impossible[:, None], 0.0)

    def decided(self) -> list[int]:
        """The tokens of the first row, which is returned first."""
        return self._history[0, self._start : self._start + int(self._lengths[0])].tolist()

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """All rows, in the order in which they were drawn."""
        rows = self._history[:, self._start :].tolist()
        logprobs = torch.stack(self._logprobs, dim=1).tolist()
        return tuple(
            self._stop_rule.hypothesis(row[:length], row_logprobs[:length])
            for row, length, row_logprobs in zip(rows, self._lengths.tolist(), logprobs, strict=True)
        )
