"""Both searches for candidates find what each request's own filters give, whoever else is asked for."""

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prelim import kernels
from prelim.generation.candidates import Candidates, Wanted
from prelim.generation.find_candidates import finder
from prelim.generation.find_on_device import to_device
from prelim.generation.logits import LogitsFilter
from prelim.generation.options import GenerationOptions

BEAMS = GenerationOptions(num_beams=2)
WAYS = pytest.mark.parametrize(
    "compiled",
    [
        pytest.param(
            True,
            marks=pytest.mark.skipif(kernels.unavailable() is not None, reason="nothing can be compiled here"),
            id="compiled",
        ),
        pytest.param(False, id="on a device"),
    ],
)


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


@WAYS
@pytest.mark.parametrize("vocab_size", [40, 255, 256, 257, 5_000])
def test_candidates_are_those_of_each_request_alone(vocab_size: int, compiled: bool) -> None:
    """With penalties, n-grams, minimum lengths, constraints and beams; logits are left as they were."""
    draw = random.Random(vocab_size)
    requests = [random_request(draw, vocab_size) for _ in range(40)]
    before = [logits.clone() for logits, _ in requests]
    found = finder(compiled=compiled)(requests)
    for (logits, wanted), kept, ours in zip(requests, before, found, strict=True):
        assert isinstance(ours, Candidates)
        assert torch.equal(logits, kept)
        scores, raw = processed_by_filters(logits, wanted)
        best = scores.flatten().topk(wanted.number)
        assert ours.scores == pytest.approx(best.values.tolist(), abs=2e-6)
        assert len(ours.tokens) == len(ours.parents) == len(ours.logprobs) == wanted.number
        assert ours.logprobs == pytest.approx(raw[ours.parents, ours.tokens].tolist(), abs=2e-6)
        # Where scores are apart, tokens are the same.
        apart = [i for i, score in enumerate(ours.scores) if is_alone(score, i, ours.scores)]
        places = [ours.parents[i] * vocab_size + ours.tokens[i] for i in apart]
        assert places == best.indices[apart].tolist()


def processed_by_filters(logits: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor]:
    """What competes in the rows of a request, and log-probabilities, in the way of `generate`."""
    sums = torch.tensor([0.0] if wanted.scores is None else wanted.scores)
    logits = logits.expand(len(sums), -1)
    raw = logits.log_softmax(dim=-1)
    competing = logits if wanted.scores is None else raw
    return wanted.processed(competing, torch.tensor(wanted.history()), wanted.generated) + sums[:, None], raw


def is_alone(score: float, place: int, scores: object) -> bool:
    """Whether no other score is near; the last may be as good as one that was not found."""
    others = [*scores[:place], *scores[place + 1 :]]  # type: ignore[index]
    return place < len(others) and math.isfinite(score) and all(abs(score - other) > 1e-5 for other in others)


@WAYS
def test_bits_do_not_depend_on_who_else_is_asked_for_or_on_threads(compiled: bool) -> None:
    """Each request alone, all together, and by four threads: the same bits."""
    draw = random.Random(0)
    requests = [random_request(draw, 1_000) for _ in range(12)]
    find = finder(compiled=compiled)
    together, threads = find(requests), torch.get_num_threads()
    assert [find([one])[0] for one in requests] == together
    try:
        torch.set_num_threads(4)
        assert find(requests) == together
    finally:
        torch.set_num_threads(threads)


@WAYS
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


@WAYS
def test_where_fewer_are_allowed_than_wanted(compiled: bool) -> None:
    """The others have minus infinity."""
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    everything_else = Forbidding([token for token in range(300) if token not in (4, 7)])
    processed = LogitsFilter(GenerationOptions(num_beams=2), torch.tensor([3]), [everything_else])
    (found,) = finder(compiled=compiled)([(logits, Wanted(6, [0.0, -1.0], processed, lambda: [[], []], 0))])
    assert isinstance(found, Candidates)
    assert sorted(zip(found.parents[:4], found.tokens[:4], strict=True)) == [(0, 4), (0, 7), (1, 4), (1, 7)]
    assert found.scores[4:] == [-math.inf, -math.inf]


@WAYS
def test_where_more_are_wanted_than_there_are(compiled: bool) -> None:
    """All of them, and then minus infinity: a vocabulary of two tokens that both end the text."""
    logits, processed = torch.tensor([[1.0, 2.0], [4.0, 3.0]]), LogitsFilter(BEAMS, torch.tensor([0, 1]))
    one, six = Wanted(1, [0.0, 0.0], processed, lambda: [[], []], 0), Wanted(6, [0.0, -9.0], processed, list, 0)
    _, found = finder(compiled=compiled)([(logits, one), (logits, six)])
    assert isinstance(found, Candidates)
    assert list(zip(found.parents, found.tokens, strict=True))[:4] == [(0, 1), (0, 0), (1, 0), (1, 1)]
    assert found.scores[4:] == [-math.inf, -math.inf]


@WAYS
def test_tokens_that_are_not_in_the_vocabulary_concern_nobody(compiled: bool) -> None:
    """In the history or among the ends of a request; its neighbor's first places would be next."""
    options = GenerationOptions(min_new_tokens=5, repetition_penalty=2.0, no_repeat_ngram_size=1)
    beyond = Wanted(1, None, LogitsFilter(options, torch.tensor([12])), lambda: [[11, -3]], 0)
    neighbor = Wanted(1, None, LogitsFilter(GenerationOptions(), torch.tensor([3])), lambda: [[0]], 0)
    logits = torch.arange(10.0)[None], torch.arange(10.0, 0, -1)[None]
    for order in ((0, 1), (1, 0)):
        found = finder(compiled=compiled)([((logits[i]), (beyond, neighbor)[i]) for i in order])
        assert [one.tokens for one in found if isinstance(one, Candidates)] == [[(9, 0)[i]] for i in order]


class Watched(TorchDispatchMode):
    """Refuses operations whose result the host needs: a GPU is waited for."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        waits = any(
            word in name for word in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique")
        )
        assert not waits, f"{name} waits for a GPU"
        return function(*args, **(kwargs or {}))


def test_a_device_is_waited_for_only_when_everything_is_found() -> None:
    """Whatever the requests want: indices are integers, and nothing that is computed decides what is computed."""
    draw = random.Random(2)
    requests = [random_request(draw, 300) for _ in range(20)]
    expected = finder(compiled=False)(requests)
    with Watched():
        assert finder(compiled=False)(requests) == expected


def test_arrays_are_sent_by_one_copy() -> None:
    """Of any type and shape, also empty ones."""
    arrays = [np.arange(3, dtype=np.int64), np.ones((2, 3), np.bool_), np.empty((0, 5), np.bool_), np.float32([[1.5]])]
    for array, tensor in zip(arrays, to_device(arrays, torch.device("cpu")), strict=True):
        assert np.array_equal(tensor.numpy(), array)
        assert tensor.numpy().dtype == array.dtype
