"""Every processor gives the scores of the one in `transformers`, and of equal scores the first are the largest."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from prelim.generation.logits import (
    LogitsFilter,
    largest,
    no_repeat_ngram,
    repetition_penalty,
    top_k,
    top_p,
)
from prelim.generation.options import GenerationOptions

PROCESSORS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], LogitsProcessor]] = {
    "repetition penalty": (lambda s, h: repetition_penalty(s, h, 1.7), RepetitionPenaltyLogitsProcessor(1.7)),
    "repetition reward": (lambda s, h: repetition_penalty(s, h, 0.4), RepetitionPenaltyLogitsProcessor(0.4)),
    "1-grams": (lambda s, h: no_repeat_ngram(s, h, 1), NoRepeatNGramLogitsProcessor(1)),
    "2-grams": (lambda s, h: no_repeat_ngram(s, h, 2), NoRepeatNGramLogitsProcessor(2)),
    "3-grams": (lambda s, h: no_repeat_ngram(s, h, 3), NoRepeatNGramLogitsProcessor(3)),
    "n-grams as long as the text": (lambda s, h: no_repeat_ngram(s, h, 9), NoRepeatNGramLogitsProcessor(9)),
    "n-grams longer than the text": (lambda s, h: no_repeat_ngram(s, h, 10), NoRepeatNGramLogitsProcessor(10)),
    "top-k": (lambda s, h: top_k(s, 3), TopKLogitsWarper(3)),
    "top-k of one": (lambda s, h: top_k(s, 1), TopKLogitsWarper(1)),
    "top-k of all": (lambda s, h: top_k(s, 99), TopKLogitsWarper(99)),
    "top-p": (lambda s, h: top_p(s, 0.6, 1), TopPLogitsWarper(0.6)),
    "tiny top-p": (lambda s, h: top_p(s, 1e-6, 1), TopPLogitsWarper(1e-6)),
    "tiny top-p, two kept": (lambda s, h: top_p(s, 1e-6, 2), TopPLogitsWarper(1e-6, min_tokens_to_keep=2)),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_scores_are_those_of_transformers(name: str) -> None:
    """Every processor gives equal scores, for negative and positive ones and a history that repeats itself."""
    ours, theirs = PROCESSORS[name]
    draw = torch.Generator().manual_seed(0)
    for _ in range(5):
        scores = 2 * torch.randn(4, 12, generator=draw)
        history = torch.randint(0, 4, (4, 9), generator=draw)

        torch.testing.assert_close(ours(scores.clone(), history), theirs(history, scores.clone()))


def filtered(num_generated: int = 0, eos: tuple[int, ...] = (3,), **options: object) -> list[float]:
    """What the filter makes of the scores 4, 3, 2, 1, 0 for a history of token 4."""
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0]])
    logits_filter = LogitsFilter(GenerationOptions(**options), torch.tensor(eos))  # type: ignore[arg-type]
    return logits_filter(scores, torch.tensor([[4]]), num_generated)[0].tolist()


def test_filter_applies_what_the_options_say() -> None:
    """Without options nothing changes; sampling options count only when sampling."""
    no = -torch.inf
    plain = [4, 3, 2, 1, 0]
    assert filtered() == plain
    assert filtered(temperature=0.5, top_k=1, top_p=0.1) == plain
    assert filtered(do_sample=True) == plain
    assert filtered(do_sample=True, temperature=0.5, top_k=0) == [8, 6, 4, 2, 0]
    assert filtered(do_sample=True, top_k=2) == [4, 3, no, no, no]
    assert filtered(do_sample=True, top_p=1e-6) == [4, no, no, no, no]
    assert filtered(do_sample=True, temperature=0.5, top_p=0.9, top_k=0) == [8, 6, no, no, no]
    assert filtered(no_repeat_ngram_size=1) == [4, 3, 2, 1, no]


def test_options_at_their_edges() -> None:
    """A penalty and a temperature of 2, the best token alone, a text that is one n-gram, a sum that is p exactly."""
    no = -torch.inf
    assert filtered(do_sample=True, temperature=2.0, top_k=0) == [2, 1.5, 1, 0.5, 0]
    assert filtered(do_sample=True, top_k=1) == [4, no, no, no, no]
    scores = torch.tensor([[0.0, -300.0]])
    for p in (1.0, 0.9):
        all_but_few = LogitsFilter(GenerationOptions(do_sample=True, top_k=0, top_p=p), torch.tensor([3]))
        assert all_but_few(scores, torch.tensor([[0]]), 1)[0].tolist() == [0, -300 if p == 1 else no]
    penalized = LogitsFilter(GenerationOptions(repetition_penalty=2.0), torch.tensor([3]))
    assert penalized(torch.tensor([[3.0, -3.0, 1.0]]), torch.tensor([[0, 1]]), 2)[0].tolist() == [1.5, -6, 1]
    assert no_repeat_ngram(torch.zeros(1, 3), torch.tensor([[2, 2, 2]]), 3)[0].tolist() == [0, 0, no]
    assert sorted(top_p_of_two(0.5)) == [no, 0]
    assert top_p_of_two(0.6) == [0, 0]


def top_p_of_two(p: float) -> list[float]:
    """What is left of two tokens that are equally likely."""
    return top_p(torch.zeros(1, 2), p, 1)[0].tolist()  # type: ignore[no-any-return]


def test_minimum_length_forbids_the_end_of_text() -> None:
    """Before `min_new_tokens` tokens every end-of-text token is forbidden; from then on it is allowed."""
    no = -torch.inf
    assert filtered(1, min_new_tokens=2) == [4, 3, 2, no, 0]
    assert filtered(2, min_new_tokens=2) == [4, 3, 2, 1, 0]
    assert filtered(0, (1, 3), min_new_tokens=1) == [4, no, 2, no, 0]


@pytest.mark.parametrize(("eos", "kept"), [((3,), 2), ((3, 4), 3)])
def test_beam_sampling_keeps_enough_candidates(eos: tuple[int, ...], kept: int) -> None:
    """With beams, tokens survive top-k and top-p, one more than the ends of text, as in `generate`."""
    for options in ({"top_k": 1}, {"top_k": 0, "top_p": 1e-6}):
        scores = filtered(0, eos, do_sample=True, num_beams=2, **options)
        assert sum(score > -torch.inf for score in scores) == kept


def test_of_equal_scores_the_first_are_the_largest() -> None:
    """Values below and above zero and of minus infinity, many of them equal."""
    scores = torch.randn(5, 3_000, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    scores[1, 4:] = -torch.inf
    scores[2] = -scores[2].abs() - 1
    expected = scores.sort(dim=1, descending=True, stable=True)
    values, places = largest(scores, 20)
    assert torch.equal(values, expected.values[:, :20])
    assert torch.equal(places, expected.indices[:, :20])
