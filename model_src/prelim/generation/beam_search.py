"""Beam search and beam sampling of one request."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from prelim.generation.constraint import Constraint
from prelim.generation.hypothesis import Hypothesis, StopRule
from prelim.generation.logits import LogitsFilter, largest
from prelim.generation.options import GenerationOptions
from prelim.generation.selection import NextTokens, no_token_left

_NEVER = -1.0e37
"""Added to a score so that it is never chosen; finite, so that sums of scores stay finite.

`generate` adds -1e9, which small temperatures and negative length penalties take real scores below: the empty
sequences that it starts from then win. The bounds of `GenerationOptions` keep real scores above this one.
"""


@dataclass(frozen=True)
class _Beams:
    """Sequences that compete, best first.

    tokens   : Tensor of int64, shape (beams, length), the generated tokens, padded after their end
    lengths  : Tensor of int64, shape (beams,)
    scores   : Tensor, shape (beams,), what they are ranked by
    logprobs : Tensor, shape (beams, length), the model's own log-probability of each token
    """

    tokens: Tensor
    lengths: Tensor
    scores: Tensor
    logprobs: Tensor

    def best(self, count: int) -> tuple["_Beams", Tensor]:
        """The `count` beams with the best scores, and which they were."""
        order = self.scores.topk(count).indices
        return _Beams(self.tokens[order], self.lengths[order], self.scores[order], self.logprobs[order]), order

    def join(self, other: "_Beams") -> "_Beams":
        """These beams and then the others, whose token rows may be longer."""
        longer = other.tokens.shape[1] - self.tokens.shape[1]
        return _Beams(
            torch.cat([torch.nn.functional.pad(self.tokens, (0, longer)), other.tokens]),
            torch.cat([self.lengths, other.lengths]),
            torch.cat([self.scores, other.scores]),
            torch.cat([torch.nn.functional.pad(self.logprobs, (0, longer)), other.logprobs]),
        )


class BeamSearch:
    """Token selection of one request with num_beams > 1; all beams in one set of tensors.

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
        beams, device = options.num_beams, start_ids.device
        self._options = options
        self._start_ids = start_ids
        self._stop_rule = stop_rule
        self._generator = generator
        self._filter = LogitsFilter(options, stop_rule.eos_token_ids, constraints)
        # So many that `num_beams` unfinished ones are left even if every beam could end.
        self._num_candidates = (1 + len(stop_rule.eos_token_ids)) * beams
        tokens = torch.zeros(beams, 0, dtype=torch.int64, device=device)
        lengths = torch.zeros(beams, dtype=torch.int64, device=device)
        never = torch.full((beams,), _NEVER, device=device)
        # Only the first beam counts at the start, or all beams would take the same token.
        scores = never.clone()
        scores[0] = 0.0
        self._running = _Beams(tokens, lengths, scores, torch.zeros(beams, 0, device=device))
        self._finished = _Beams(tokens, lengths, never, torch.zeros(beams, 0, device=device))
        self._is_finished = torch.zeros(beams, dtype=torch.bool, device=device)
        self._improvable = True

    def advance(self, logits: Tensor) -> NextTokens | None:
        """Choose the next tokens; see `TokenSelection.advance`."""
        candidates, parents = self._candidates(logits.float().expand(self._options.num_beams, -1))
        complete = self._stop_rule.complete(candidates.tokens)
        self._finish(candidates, complete)
        penalized = candidates.scores + complete * _NEVER
        open_candidates = _Beams(candidates.tokens, candidates.lengths, penalized, candidates.logprobs)
        self._running, order = open_candidates.best(self._options.num_beams)
        if self._is_over(complete.all()):
            return None
        chosen = NextTokens(self._running.tokens[:, -1], parents[order])
        self._filter.advance(chosen.tokens, chosen.parents)
        return chosen

    def decided(self) -> list[int]:
        """The tokens that all beams have in common from which the best sequence can come.

        These are all open beams and the best finished one: a worse one stays worse. Beams whose score is not finite,
        because every continuation was forbidden, are never returned.
        """
        running, finished = self._running, self._finished
        is_best = self._is_finished & (finished.scores == finished.scores.amax()) & finished.scores.isfinite()
        rivals = [(running, row) for row in running.scores.isfinite().nonzero().flatten().tolist()]
        rivals += [(finished, row) for row in is_best.nonzero().flatten().tolist()]
        sequences = [beams.tokens[row, : beams.lengths[row]].tolist() for beams, row in rivals]
        agreed = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False))
        return [tokens[0] for tokens in agreed]

    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """The best finished beams, best first; fewer than requested if the search found fewer.

        Raises InvalidOption when there is none, or the options make even the best one impossible.
        """
        beams, count = self._finished, self._options.num_return_sequences
        found = self._is_finished[:count].nonzero().flatten().tolist()
        if not found or not beams.scores[found[0]].isfinite():
            raise no_token_left()
        return tuple(
            self._stop_rule.hypothesis(
                *(values[i, : beams.lengths[i]].tolist() for values in (beams.tokens, beams.logprobs))
            )
            for i in found
        )

    def _candidates(self, logits: Tensor) -> tuple[_Beams, Tensor]:
        """The best (or drawn) continuations of all beams, and the beam that each of them continues."""
        running, num_beams = self._running, self._options.num_beams
        raw = logits.log_softmax(dim=-1)
        history = torch.cat([self._start_ids.expand(num_beams, -1), running.tokens], dim=1)
        scores = self._filter(raw, history, running.tokens.shape[1]) + running.scores[:, None]
        vocab_size = raw.shape[1]
        if self._options.do_sample:
            scores = scores.flatten()
            if not scores.amax().isfinite():
                raise no_token_left()
            chosen = torch.multinomial(scores.softmax(dim=-1), self._num_candidates, generator=self._generator)
            best, parents, tokens = scores[chosen], chosen // vocab_size, chosen % vocab_size
        else:
            values, indices = largest(scores, min(self._num_candidates, vocab_size))
            best, chosen = values.flatten().topk(self._num_candidates)
            parents, tokens = chosen // indices.shape[1], indices.flatten()[chosen]
        candidates = _Beams(
            torch.cat([running.tokens[parents], tokens[:, None]], dim=1),
            running.lengths[parents] + 1,
            best,
            torch.cat([running.logprobs[parents], raw[parents, tokens][:, None]], dim=1),
        )
        return candidates, parents

    def _finish(self, candidates: _Beams, complete: Tensor) -> None:
        """Replace finished beams that score below newly completed candidates."""
        o = self._options
        counts = complete.clone()
        counts[o.num_beams :] = False  # the rest are candidates only so that enough open beams remain
        scores = candidates.scores / candidates.tokens.shape[1] ** o.length_penalty
        if not self._improvable or (o.early_stopping is True and bool(self._is_finished.all())):
            scores = scores + _NEVER
        scores = scores + ~counts * _NEVER
        pool = self._finished.join(_Beams(candidates.tokens, candidates.lengths, scores, candidates.logprobs))
        self._finished, order = pool.best(o.num_beams)
        self._is_finished = torch.cat([self._is_finished, counts])[order]

    def _is_over(self, all_complete: Tensor) -> bool:
        """Whether no open beam can still improve the result, by the heuristic that `early_stopping` names.

        all_complete : Tensor of bool, whether all candidates are
        """
        o = self._options
        length = self._running.tokens.shape[1]
        if o.early_stopping == "never" and o.length_penalty > 0:
            length = self._stop_rule.max_new_tokens
        best_possible = self._running.scores[0] / length**o.length_penalty
        worst = torch.where(self._is_finished, self._finished.scores.min(), _NEVER)
        flags = torch.stack([all_complete, (best_possible > worst).any(), self._is_finished.all()])
        # All at once: a GPU is waited for.
        complete, improvable, all_finished = flags.tolist()
        self._improvable = self._improvable and improvable
        return not self._improvable or complete or (o.early_stopping is True and all_finished)
