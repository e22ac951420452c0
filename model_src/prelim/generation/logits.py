"""What changes the scores of the next token before one is chosen.

Each function takes and returns scores of shape (rows, vocab_size); the order in which they are applied, and
what each does, is that of `transformers` `generate`, so that the chosen token ids are the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prelim.generation.constraint import Constraint
from prelim.generation.options import GenerationOptions


class LogitsFilter:
    """All processors that one request's options ask for, in the order of `generate`, which has no constraints.

    constraints    : of the request's rows
    penalty, ngram : `repetition_penalty` and `no_repeat_ngram_size`
    """

    def __init__(
        self, options: GenerationOptions, eos_token_ids: Tensor, constraints: Sequence[Constraint] = ()
    ) -> None:
        self._options = options
        self._constraints = constraints
        self._eos_token_ids = eos_token_ids
        self._ends = eos_token_ids.tolist()
        self.penalty, self.ngram = options.repetition_penalty, options.no_repeat_ngram_size
        # Beam sampling draws 2 candidates a beam, and one of them may be the end of text.
        self._keep = 1 + len(eos_token_ids) if options.num_beams > 1 else 1

    @property
    def reads_history(self) -> bool:
        """Whether what a row has so far changes its scores."""
        return self.penalty != 1.0 or self.ngram > 0

    def banned(self, num_generated: int) -> Sequence[int]:
        """Tokens that no row may take after so many generated ones."""
        return self._ends if num_generated < self._options.min_new_tokens else ()

    def forbid(self, scores: Tensor) -> Tensor:
        """Scores, shape (rows, vocab_size), with minus infinity for what the constraints do not allow."""
        for constraint in self._constraints:
            scores = constraint.forbid(scores)
        return scores

    def __call__(self, scores: Tensor, history: Tensor, num_generated: int) -> Tensor:
        """Process scores.

        scores        : Tensor, shape (rows, vocab_size), logits or log-probabilities
        history       : Tensor of int64, shape (rows, length), the tokens so far, the decoder's start token included
        num_generated : how many of them were generated
        """
        o = self._options
        if o.repetition_penalty != 1.0:
            scores = repetition_penalty(scores, history, o.repetition_penalty)
        if o.no_repeat_ngram_size > 0:
            scores = no_repeat_ngram(scores, history, o.no_repeat_ngram_size)
        if self.banned(num_generated):
            scores = scores.index_fill(1, self._eos_token_ids, -torch.inf)
        scores = self.forbid(scores)
        if not o.do_sample:
            return scores
        if o.temperature != 1.0:
            scores = scores / o.temperature
        if o.top_k > 0:
            scores = top_k(scores, max(o.top_k, self._keep))
        if o.top_p < 1.0:
            scores = top_p(scores, o.top_p, self._keep)
        return scores

    def advance(self, tokens: Sequence[int], parents: Sequence[int] | None = None) -> None:
        """Take what was chosen; see `NextTokens`."""
        for constraint in self._constraints:
            constraint.advance(tokens, parents)


def repetition_penalty(scores: Tensor, history: Tensor, penalty: float) -> Tensor:
    """Make tokens of the history less likely.

    Source: Keskar et al., "CTRL", 2019, section 4.1; negative scores are multiplied instead of divided.
    """
    seen = scores.gather(1, history)
    return scores.scatter(1, history, torch.where(seen < 0, seen * penalty, seen / penalty))


def no_repeat_ngram(scores: Tensor, history: Tensor, size: int) -> Tensor:
    """Forbid every token that would complete an n-gram which the history already has.

    Source: Paulus et al., "A Deep Reinforced Model for Abstractive Summarization", 2017, section 2.5.
    """
    length = history.shape[1]
    if length < size:
        return scores
    ngrams = history.unfold(1, size, 1)  # (rows, length - size + 1, size)
    beginning = history[:, length - size + 1 :]
    row, place = (ngrams[:, :, :-1] == beginning[:, None]).all(-1).nonzero(as_tuple=True)
    scores = scores.clone()
    scores[row, ngrams[row, place, -1]] = -torch.inf
    return scores


def top_k(scores: Tensor, k: int) -> Tensor:
    """Keep the k best tokens of each row. Source: Fan et al., "Hierarchical Neural Story Generation", 2018."""
    threshold = scores.topk(min(k, scores.shape[1])).values[:, -1:]
    return scores.masked_fill(scores < threshold, -torch.inf)


def top_p(scores: Tensor, p: float, keep: int) -> Tensor:
    """Keep the smallest set of tokens with probability p, at least `keep` of them.

    Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020.
    """
    ascending, order = scores.sort(dim=1)
    removed = ascending.softmax(dim=1).cumsum(dim=1) <= 1 - p
    removed[:, -keep:] = False
    return scores.masked_fill(removed.scatter(1, order, removed), -torch.inf)


_PLACES = 2**32
"""More than a row has places. A place and the score there share an integer of 64 bits."""


def largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest scores of each row and their places, of equal ones the first.

    `topk` leaves open which of equal ones it takes, and scores in bf16 are often equal. So places are part of what is
    compared: numbers of 32 bits are in order as integers, apart from the lower bits of negative ones, which are
    inverted.

    scores  : Tensor of float32, shape (rows, vocab_size)
    returns : two Tensors, shape (rows, count)
    """
    size = scores.shape[1]
    places = torch.arange(size - 1, -1, -1, device=scores.device)
    keys, _ = (_ordered(scores.contiguous().view(torch.int32)).long() * _PLACES + places).topk(count, dim=1)
    return _ordered((keys >> 32).int()).view(torch.float32), size - 1 - keys % _PLACES


def _ordered(bits: Tensor) -> Tensor:
    """The bits of float32 as integers in the same order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
