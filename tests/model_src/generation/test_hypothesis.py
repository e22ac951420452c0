"""Log-probabilities, lengths and finish reasons have the values that a hand computes."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from prelim.errors import InvalidOption
from prelim.generation.beam_search import BeamSearch
from prelim.generation.candidates import Candidates
from prelim.generation.find_candidates import finder
from prelim.generation.hypothesis import Hypothesis, StopRule
from prelim.generation.options import GenerationOptions
from prelim.generation.sampling import Sampling
from prelim.generation.selection import NextTokens, TokenSelection

EOS = 3
PAD = 0


def text(token_ids: Sequence[int]) -> str:
    """One letter a token."""
    return "".join(chr(ord("a") + token) for token in token_ids)


def rule(max_new_tokens: int = 10, stop: tuple[str, ...] = ()) -> StopRule:
    """A rule for texts that end with token 3."""
    return StopRule(torch.tensor([EOS]), max_new_tokens, stop, text)


def logits(*rows: list[float]) -> Tensor:
    """Logits of probabilities, shape (rows, 4)."""
    return torch.tensor(rows).log()


def advance(selection: TokenSelection, logits: Tensor) -> NextTokens | None:
    """Let a selection choose by these logits."""
    wanted = selection.ask()
    if wanted is None:
        return selection.advance(logits)
    (found,) = finder(compiled=False)([(logits, wanted)])
    assert isinstance(found, Candidates)
    return selection.advance(found)


@pytest.mark.parametrize(
    ("logprobs", "average"), [((-1.0, -2.0, -3.0), -2.0), ((-1.5,), -1.5), ((), 0.0), ((-0.5, 0.0), -0.25)]
)
def test_average_is_over_all_tokens(logprobs: tuple[float, ...], average: float) -> None:
    """The sum of log-probabilities is divided by the number of tokens, the end of text included."""
    hypothesis = Hypothesis(tuple(range(len(logprobs))), logprobs, "eos")

    assert (hypothesis.sum_logprob, hypothesis.avg_logprob) == (sum(logprobs), average)


def test_average_of_greedy_search() -> None:
    """Two tokens of probabilities 1/2 and 3/4, the second the end of text."""
    sampling = Sampling(GenerationOptions(), torch.tensor([1]), rule(), PAD, None)

    assert advance(sampling, logits([0.1, 0.2, 0.5, 0.2])) is not None
    assert advance(sampling, logits([0.1, 0.1, 0.05, 0.75])) is None

    (hypothesis,) = sampling.hypotheses()
    assert hypothesis.token_ids == (2, EOS)
    assert hypothesis.sum_logprob == pytest.approx(math.log(0.5 * 0.75))
    assert hypothesis.avg_logprob == pytest.approx(math.log(0.5 * 0.75) / 2)
    assert hypothesis.logprobs == pytest.approx((math.log(0.5), math.log(0.75)))


def test_processors_do_not_change_the_average() -> None:
    """The model's own probabilities count, not those that penalties, a temperature or top-k leave."""
    options = GenerationOptions(
        do_sample=True, top_k=1, temperature=0.25, repetition_penalty=100, no_repeat_ngram_size=1, max_new_tokens=2
    )
    sampling = Sampling(options, torch.tensor([1]), rule(2), PAD, torch.Generator().manual_seed(0))

    advance(sampling, logits([0.1, 0.2, 0.5, 0.2]))
    advance(sampling, logits([0.3, 0.1, 0.4, 0.2]))  # 2 is forbidden now, and 0 is the best of the others

    (hypothesis,) = sampling.hypotheses()
    assert hypothesis.token_ids == (2, 0)
    assert hypothesis.sum_logprob == pytest.approx(math.log(0.5 * 0.3))


def test_padding_does_not_count() -> None:
    """A row that has ended gets no further log-probability and no further token while others are decoded."""
    options = GenerationOptions(do_sample=True, num_return_sequences=2, top_k=1)
    sampling = Sampling(options, torch.tensor([1]), rule(3), PAD, torch.Generator().manual_seed(0))

    advance(sampling, logits([0.1, 0.1, 0.3, 0.5], [0.1, 0.1, 0.6, 0.2]))
    advance(sampling, logits([0.7, 0.1, 0.1, 0.1], [0.2, 0.5, 0.2, 0.1]))
    assert sampling.decided() == [EOS]
    advance(sampling, logits([0.7, 0.1, 0.1, 0.1], [0.2, 0.2, 0.5, 0.1]))

    first, second = sampling.hypotheses()
    assert (first.token_ids, second.token_ids) == ((EOS,), (2, 1, 2))
    assert first.avg_logprob == pytest.approx(math.log(0.5))
    assert second.avg_logprob == pytest.approx(math.log(0.6 * 0.5 * 0.5) / 3)
    assert [len(hypothesis.logprobs) for hypothesis in (first, second)] == [1, 3]
    assert (first.finish_reason, second.finish_reason) == ("eos", "length")


def test_average_of_beams() -> None:
    """Of two beams, the one whose second token is likelier wins, with the probabilities of its own ancestry."""
    search = BeamSearch(GenerationOptions(num_beams=2, num_return_sequences=2), torch.tensor([1]), rule(2), None)

    advance(search, logits([0.1, 0.5, 0.4, 1e-9]))
    assert search.decided() == [], "the beams begin with 1 and 2"
    advance(search, logits([0.4, 0.3, 0.3, 1e-9], [0.02, 0.9, 0.08, 1e-9]))

    best, second = search.hypotheses()
    assert (best.token_ids, second.token_ids) == ((2, 1), (1, 0))
    assert best.avg_logprob == pytest.approx(math.log(0.4 * 0.9) / 2, abs=1e-6)
    assert second.avg_logprob == pytest.approx(math.log(0.5 * 0.4) / 2, abs=1e-6)
    assert best.logprobs == pytest.approx((math.log(0.4), math.log(0.9)), abs=1e-6)


def test_penalties_rank_beams_and_are_not_reported() -> None:
    """A repetition penalty turns the order of the beams; their log-probabilities are the model's."""
    options = GenerationOptions(num_beams=2, repetition_penalty=3.0, max_new_tokens=1)
    search = BeamSearch(options, torch.tensor([1]), rule(1), None)

    advance(search, logits([0.1, 0.6, 0.3, 1e-9]))

    (best,) = search.hypotheses()
    assert best.token_ids == (2,)  # ln 0.3 = -1.2 is above 3 ln 0.6 = -1.5
    assert best.sum_logprob == pytest.approx(math.log(0.3))


@pytest.mark.parametrize(("length_penalty", "winner"), [(0.0, (EOS,)), (2.0, (2, 1, EOS))])
def test_length_penalty_is_an_exponent(length_penalty: float, winner: tuple[int, ...]) -> None:
    """Scores are divided by length ** length_penalty: 0 prefers the likelier text, 2 the longer one."""
    options = GenerationOptions(num_beams=2, length_penalty=length_penalty, early_stopping="never", max_new_tokens=3)
    search = BeamSearch(options, torch.tensor([1]), rule(3), None)

    advance(search, logits([0.01, 0.01, 0.48, 0.5]))
    advance(search, logits([0.01, 0.9, 0.08, 0.01], [0.25, 0.25, 0.25, 0.25]))
    advance(search, logits([0.01, 0.01, 0.01, 0.97], [0.25, 0.25, 0.25, 0.25]))

    assert search.hypotheses()[0].token_ids == winner


def test_no_finished_beam_is_an_error() -> None:
    """Options that make every sequence impossible end the request with InvalidOption."""
    options = GenerationOptions(num_beams=2, max_new_tokens=1)
    search = BeamSearch(options, torch.tensor([1]), rule(1), None)

    with pytest.raises(InvalidOption, match="no further token"):
        search.hypotheses()


def test_rows_are_complete_by_length_end_or_stop_text() -> None:
    """The last token counts, and the whole text for stop texts."""
    generated = [5, EOS], [EOS, 5], [4, 5], [5, 4]

    assert [rule().completes(row) for row in generated] == [True, False, False, False]
    assert [rule(stop=("ef",)).completes(row) for row in generated] == [True, False, True, False]
    assert [rule(max_new_tokens=2).completes(row) for row in generated] == [True] * 4
    assert [rule(max_new_tokens=3).completes(row) for row in generated] == [True, False, False, False]


@pytest.mark.parametrize(
    ("tokens", "stop", "reason"),
    [
        ([4, EOS], (), "eos"),
        ([4, EOS], ("d",), "eos"),
        ([4, 5], ("e",), "stop"),
        ([4, 5], ("g",), "length"),
        ([EOS, 5], (), "length"),
        ([], ("g",), "length"),
    ],
)
def test_finish_reason(tokens: list[int], stop: tuple[str, ...], reason: str) -> None:
    """The end of text comes first, then a stop text; otherwise the length ended it."""
    hypothesis = rule(stop=stop).hypothesis(tokens, [-0.5] * len(tokens))

    assert (hypothesis.finish_reason, hypothesis.token_ids) == (reason, tuple(tokens))
    assert hypothesis.logprobs == (-0.5,) * len(tokens)
