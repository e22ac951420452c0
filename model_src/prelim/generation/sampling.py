"""Greedy search and sampling: every row goes its own way."""

import torch
from torch import Tensor

from prelim.generation.hypothesis import Hypothesis, StopRule
from prelim.generation.logits import LogitsFilter
from prelim.generation.options import GenerationOptions


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
    ) -> None:
        rows, device = options.rows, start_ids.device
        self._options = options
        self._filter = LogitsFilter(options, stop_rule.eos_token_ids)
        self._stop_rule = stop_rule
        self._pad_token_id = pad_token_id
        self._generator = generator
        self._history = start_ids.expand(rows, -1)
        self._start = len(start_ids)
        self._unfinished = torch.ones(rows, dtype=torch.bool, device=device)
        self._lengths = torch.zeros(rows, dtype=torch.int64, device=device)
        self._sum_logprobs = torch.zeros(rows, device=device)

    def advance(self, logits: Tensor) -> tuple[Tensor | None, Tensor] | None:
        """Choose the next tokens.

        logits  : Tensor, shape (rows, vocab_size), or (1, vocab_size) for the first token
        returns : None for the parents (rows keep their order) and the tokens, shape (rows,); or None when all
                  rows are complete
        """
        logits = logits.float().expand(self._options.rows, -1)
        scores = self._filter(logits, self._history, self._history.shape[1] - self._start)
        if self._options.do_sample:
            tokens = torch.multinomial(scores.softmax(dim=-1), 1, generator=self._generator)[:, 0]
        else:
            tokens = scores.argmax(dim=-1)
        tokens = tokens.where(self._unfinished, self._pad_token_id)
        logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)
        self._sum_logprobs += logprobs * self._unfinished
        self._lengths += self._unfinished
        self._history = torch.cat([self._history, tokens[:, None]], dim=1)
        self._unfinished = self._unfinished & ~self._stop_rule.complete(self._history[:, self._start :])
        return (None, tokens) if self._unfinished.any() else None

    def leading(self) -> list[int]:
        """The tokens of the first row so far."""
        return self._history[0, self._start : self._start + int(self._lengths[0])].tolist()

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """All rows, in the order in which they were drawn."""
        rows = self._history[:, self._start :].tolist()
        return tuple(
            self._stop_rule.hypothesis(row[:length], logprob)
            for row, length, logprob in zip(rows, self._lengths.tolist(), self._sum_logprobs.tolist(), strict=True)
        )
