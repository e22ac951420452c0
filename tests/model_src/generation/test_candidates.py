"""The compiled search for candidates finds what PyTorch's operations find, whoever else is asked for."""

import math
import random

import pytest
import torch
from torch import Tensor

from prelim import kernels
from prelim.generation.candidates import Candidates, Wanted, finder
from prelim.generation.logits import LogitsFilter
from prelim.generation.options import GenerationOptions

pytestmark = pytest.mark.skipif(kernels.unavailable() is not None, reason="nothing can be compiled here")


class Forbidding:
    """A constraint that forbids the same tokens in every row."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = torch.tensor(tokens)

    def forbid(self, scores: Tensor) -> Tensor:
        """Minus infinity for these tokens."""
        return scores.index_fill(1, self._tokens, -torch.inf)

    def advance(self, tokens: object, parents: object = None) -> None:
        """Nothing changes."""


def random_request(draw: random.Random, vocab_size: int) -> tuple[Tensor, Wanted]:
    """Logits and what a request of random options wants to know of them."""
    beams = draw.choice((1, 1, 2, 3, 5))
    options = GenerationOptions(
        num_beams=beams,
        repetition_penalty=draw.choice((1.0, 1.7, 0.6)),
        no_repeat_ngram_size=draw.choice((0, 1, 2, 3)),
        min_new_tokens=draw.choice((0, 9)),
    )
    ends = draw.sample(range(vocab_size), draw.choice((1, 2)))
    constraints = [Forbidding(draw.sample(range(vocab_size), vocab_size // 3))] if draw.random() < 0.5 else []
    history = [[draw.randrange(min(vocab_size, 9)) for _ in range(7)] for _ in range(beams)]
    generator = torch.Generator().manual_seed(draw.randrange(1000))
    logits = 3 * torch.randn(draw.choice((1, beams)), vocab_size, generator=generator)
    # Some are equal, and some are among the largest and in the history.
    logits[:, vocab_size // 2 :] = logits[:, vocab_size // 2 :].round()
    logits[:, :9] += 4
    scores = sorted((draw.uniform(-9, 0) for _ in range(beams)), reverse=True) if beams > 1 else None
    wanted = Wanted(
        (1 + len(ends)) * beams if beams > 1 else 1,
        scores,
        LogitsFilter(options, torch.tensor(ends), constraints),
        lambda: history,
        draw.choice((8, 9)),
    )
    return logits, wanted


@pytest.mark.parametrize("vocab_size", [40, 255, 256, 257, 5_000])
def test_compiled_candidates_are_those_of_pytorch(vocab_size: int) -> None:
    """With penalties, n-grams, minimum lengths, constraints and beams; logits are left as they were."""
    draw = random.Random(vocab_size)
    requests = [random_request(draw, vocab_size) for _ in range(40)]
    before = [logits.clone() for logits, _ in requests]
    found, expected = (finder(compiled=compiled)(requests) for compiled in (True, False))
    for (logits, wanted), kept, ours, theirs in zip(requests, before, found, expected, strict=True):
        assert isinstance(ours, Candidates)
        assert isinstance(theirs, Candidates)
        assert torch.equal(logits, kept)
        assert ours.scores == pytest.approx(theirs.scores, abs=2e-6)
        assert len(ours.tokens) == len(ours.parents) == len(ours.logprobs) == wanted.count
        raw = logits.double().log_softmax(dim=-1).expand(len(wanted.scores or [0]), -1)
        assert ours.logprobs == pytest.approx(raw[ours.parents, ours.tokens].tolist(), abs=2e-6)
        # Where scores are apart, tokens are the same.
        apart = [i for i, score in enumerate(theirs.scores) if is_alone(score, i, theirs.scores)]
        assert [(ours.parents[i], ours.tokens[i]) for i in apart] == [
            (theirs.parents[i], theirs.tokens[i]) for i in apart
        ]


def is_alone(score: float, place: int, scores: object) -> bool:
    """Whether no other score is near; the last may be as good as one that was not found."""
    others = [*scores[:place], *scores[place + 1 :]]  # type: ignore[index]
    return place < len(others) and math.isfinite(score) and all(abs(score - other) > 1e-5 for other in others)


def test_bits_do_not_depend_on_who_else_is_asked_for_or_on_threads() -> None:
    """Each request alone, all together, and by four threads: the same bits."""
    draw = random.Random(0)
    requests = [random_request(draw, 1_000) for _ in range(12)]
    find = finder(compiled=True)
    together, threads = find(requests), torch.get_num_threads()
    assert [find([one])[0] for one in requests] == together
    try:
        torch.set_num_threads(4)
        assert find(requests) == together
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_said(value: float, compiled: bool) -> None:
    """NaN or infinity in one of the rows, or minus infinity in all places; the neighbors are found."""
    draw = random.Random(1)
    requests = [random_request(draw, 300) for _ in range(3)]
    find = finder(compiled=compiled)
    expected = find(requests)
    requests[1][0][-1, 299] = value
    first, broken, last = find(requests)
    assert isinstance(broken, Candidates)
    assert not broken.finite
    assert (first, last) == (expected[0], expected[2])
    requests[1][0][-1] = -math.inf
    assert not find(requests)[1].finite  # type: ignore[union-attr]


@pytest.mark.parametrize("compiled", [True, False])
def test_where_fewer_are_allowed_than_wanted(compiled: bool) -> None:
    """The others have minus infinity."""
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    everything_else = Forbidding([token for token in range(300) if token not in (4, 7)])
    processed = LogitsFilter(GenerationOptions(num_beams=2), torch.tensor([3]), [everything_else])
    (found,) = finder(compiled=compiled)([(logits, Wanted(6, [0.0, -1.0], processed, lambda: [[], []], 0))])
    assert isinstance(found, Candidates)
    assert sorted(zip(found.parents[:4], found.tokens[:4], strict=True)) == [(0, 4), (0, 7), (1, 4), (1, 7)]
    assert found.scores[4:] == [-math.inf, -math.inf]
