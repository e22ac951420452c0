"""Beam search and beam sampling of one request."""

import math
from collections.abc import Sequence
from ctypes import c_float
from itertools import takewhile
from typing import NamedTuple

import torch
from torch import Tensor

from prelim.generation.candidates import Candidates, Wanted
from prelim.generation.constraint import Constraint
from prelim.generation.hypothesis import Hypothesis, StopRule
from prelim.generation.logits import LogitsFilter
from prelim.generation.options import GenerationOptions
from prelim.generation.selection import NextTokens, no_token_left

_NEVER = c_float(-1.0e37).value
"""Added to a score so that it is never chosen; finite, so that sums of scores stay finite.

`generate` adds -1e9, which small temperatures and negative length penalties take real scores below: the empty
sequences that it starts from then win. The bounds of `GenerationOptions` keep real scores above this one.
"""


class _Beam(NamedTuple):
    """A sequence that competes.

    tokens   : that were generated
    score    : what it is ranked by
    logprobs : the model's own log-probability of each token
    """

    tokens: list[int]
    score: float
    logprobs: list[float]

    def add(self, token: int, score: float, logprob: float) -> "_Beam":
        """The sequence with a further token."""
        return _Beam([*self.tokens, token], score, [*self.logprobs, logprob])


class BeamSearch:
    """Token selection of one request with num_beams > 1; scores are float32, as those of `generate`.

    Source: `transformers` `generate`, whose scores, stopping heuristics and token ids it gives.
    """

    def __init__(
        self,
        options: GenerationOptions,
        start_ids: Tensor,
        stop_rule: StopRule,
        generator: torch.Generator | None,
        *,
        constraints: Sequence[Constraint] = (),
    ) -> None:
        self._options = options
        self._start_ids: list[int] = start_ids.tolist()
        self._stop_rule = stop_rule
        self._generator = generator
        self._filter = LogitsFilter(options, stop_rule.eos_token_ids, constraints)
        # So many that `num_beams` unfinished ones are left even if every beam could end.
        self._num_candidates = (1 + len(stop_rule.eos_token_ids)) * options.num_beams
        # Only the first beam counts at the start, or all beams would take the same token.
        self._running = [_Beam([], score, []) for score in (0.0, *[_NEVER] * (options.num_beams - 1))]
        self._finished: list[_Beam] = []  # the best, best first, at most num_beams
        self._improvable = True

    def ask(self) -> Wanted | None:
        """Its candidates, unless it draws them."""
        if self._options.do_sample:
            return None
        scores = [beam.score for beam in self._running]
        return Wanted(self._num_candidates, scores, self._filter, self._history, len(self._running[0].tokens))

    def advance(self, found: Candidates | Tensor) -> NextTokens | None:
        """Choose the next tokens; see `TokenSelection.advance`."""
        chosen = self._draw(found) if isinstance(found, Tensor) else found
        each = zip(chosen.parents, chosen.tokens, chosen.scores, chosen.logprobs, strict=True)
        candidates = [self._running[parent].add(token, score, logprob) for parent, token, score, logprob in each]
        complete = [self._stop_rule.completes(candidate.tokens) for candidate in candidates]
        self._finish(candidates, complete)
        # Complete ones only where nothing else is left; those that are equally good stay in their order.
        ranked = [
            (candidate.score + _NEVER * ended, i)
            for i, (candidate, ended) in enumerate(zip(candidates, complete, strict=True))
        ]
        ranked.sort(key=lambda entry: -entry[0])
        best = ranked[: self._options.num_beams]
        self._running = [_Beam(candidates[i].tokens, score, candidates[i].logprobs) for score, i in best]
        if self._is_over(all(complete)):
            return None
        following = NextTokens([chosen.tokens[i] for _, i in best], [chosen.parents[i] for _, i in best])
        self._filter.advance(following.tokens, following.parents)
        return following

    def decided(self) -> list[int]:
        """The tokens that all beams have in common from which the best sequence can come.

        These are all open beams and the best finished one: a worse one stays worse. Beams whose score is not finite,
        because every continuation was forbidden, are never returned.
        """
        best = [beam for beam in self._finished if beam.score == self._finished[0].score]
        rivals = [beam.tokens for beam in (*self._running, *best) if math.isfinite(beam.score)]
        agreed = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*rivals, strict=False))
        return [tokens[0] for tokens in agreed]

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """The best finished beams, best first; fewer than requested if the search found fewer.

        Raises InvalidOption when there is none.
        """
        if not self._finished:
            raise no_token_left()
        best = self._finished[: self._options.num_return_sequences]
        return tuple(self._stop_rule.hypothesis(beam.tokens, beam.logprobs) for beam in best)

    def _history(self) -> list[list[int]]:
        return [self._start_ids + beam.tokens for beam in self._running]

    def _draw(self, logits: Tensor) -> Candidates:
        """Continuations that are drawn, in the order in which they are."""
        raw = logits.float().expand(self._options.num_beams, -1).log_softmax(dim=-1)
        device, vocab_size = raw.device, raw.shape[1]
        history = torch.tensor(self._history(), dtype=torch.int64, device=device)
        before = torch.tensor([beam.score for beam in self._running], device=device)
        scores = self._filter(raw, history, len(self._running[0].tokens)) + before[:, None]
        scores = scores.flatten()
        if not scores.amax().isfinite():
            raise no_token_left()
        chosen = torch.multinomial(scores.softmax(dim=-1), self._num_candidates, generator=self._generator)
        numbers = torch.stack([scores[chosen], raw.flatten()[chosen]]).tolist()
        places = chosen.tolist()
        return Candidates(
            numbers[0], [place // vocab_size for place in places], [place % vocab_size for place in places], numbers[1]
        )

    def _finish(self, candidates: Sequence[_Beam], complete: Sequence[bool]) -> None:
        """Replace finished beams that score below newly completed candidates.

        Of the candidates only the first count; the rest are there so that enough open beams remain.
        """
        o = self._options
        entering = [beam for beam, ended in zip(candidates[: o.num_beams], complete, strict=False) if ended]
        if entering:
            length = len(entering[0].tokens) ** o.length_penalty
            rated = [_Beam(beam.tokens, _divide(beam.score, length), beam.logprobs) for beam in entering]
            pool = self._finished + [beam for beam in rated if beam.score > _NEVER]
            self._finished = sorted(pool, key=lambda beam: -beam.score)[: o.num_beams]

    def _is_over(self, all_complete: bool) -> bool:
        """Whether no open beam can still improve the result, by the heuristic that `early_stopping` names.

        all_complete : whether all candidates are
        """
        o = self._options
        full = len(self._finished) == o.num_beams
        length = len(self._running[0].tokens)
        if o.early_stopping == "never" and o.length_penalty > 0:
            length = self._stop_rule.max_new_tokens
        best_possible = _divide(self._running[0].score, length**o.length_penalty)
        improvable = best_possible > (self._finished[-1].score if full else _NEVER)
        self._improvable = self._improvable and improvable
        return not self._improvable or all_complete or (o.early_stopping is True and full)


def _divide(score: float, divisor: float) -> float:
    """The quotient of float32, to which that of double precision rounds; what never wins may become minus infinity."""
    return c_float(score / c_float(divisor).value).value
