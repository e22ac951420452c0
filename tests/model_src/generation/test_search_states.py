"""What beam search decides in states that a hand has set: what is over, what is finished, what is decided."""

from typing import Any

import pytest
import torch

from prelim.errors import InvalidOption
from prelim.generation.beam_search import _NEVER, BeamSearch, _Beams
from prelim.generation.columns import Columns
from prelim.generation.hypothesis import StopRule
from prelim.generation.options import GenerationOptions

INF = float("inf")
Row = tuple[list[int], float]
"""Tokens of a beam and its score."""


def beams(rows: list[Row]) -> _Beams:
    """Beams with these tokens and scores; each token has a log-probability of its own."""
    longest = max(len(tokens) for tokens, _ in rows)
    padded = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _ in rows]).view(len(rows), longest)
    lengths = torch.tensor([len(tokens) for tokens, _ in rows])
    return _Beams(padded, lengths, torch.tensor([score for _, score in rows]), -padded.float())


def search(running: list[Row], finished: list[Row], flags: list[bool], **options: Any) -> BeamSearch:
    """A search in this state; `flags` says which of the finished beams are there."""
    count = len(running)
    asked = GenerationOptions(num_beams=count, num_return_sequences=count, max_new_tokens=10, **options)
    made = BeamSearch(asked, torch.tensor([1]), StopRule(torch.tensor([3]), 10, (), str), None)
    made._running, made._finished, made._is_finished = beams(running), beams(finished), torch.tensor(flags)
    return made


NONE: Row = ([4], _NEVER)
"""What stands for a beam that has not finished."""


@pytest.mark.parametrize(
    ("running", "finished", "flags", "decided"),
    [
        ([([5, 6, 7], -1), ([5, 6, 8], -2)], [NONE, NONE], [False, False], [5, 6]),
        ([([5, 6, 7], -1), ([4, 6, 7], -INF)], [NONE, NONE], [False, False], [5, 6, 7]),
        # The best that is finished can be returned, a worse one and one that is not there can not.
        ([([5, 6, 7], -1), ([5, 6, 8], -2)], [([5, 3], -1), ([4, 3], -2)], [True, True], [5]),
        ([([5, 6, 7], -1), ([5, 6, 8], -2)], [([5, 6, 3], -1), NONE], [True, False], [5, 6]),
        ([([5, 6, 7], -1), ([5, 6, 8], -2)], [([5, 6, 3], -1), ([5, 3], -1)], [True, True], [5]),
        ([([5, 6, 7], -1), ([5, 6, 8], -2)], [([4, 3], -INF), NONE], [True, False], [5, 6]),
        ([([5, 6, 7], -1), ([5, 6, 8], -2)], [([4, 3], -INF), ([4, 4], -INF)], [True, True], [5, 6]),
        ([([5], -INF), ([6], -INF)], [([5, 3], -1), ([4, 3], -2)], [True, True], [5, 3]),
    ],
)
def test_what_no_later_step_can_change(
    running: list[Row], finished: list[Row], flags: list[bool], decided: list[int]
) -> None:
    """The tokens that all beams have in common which may still be the best."""
    assert search(running, finished, flags).decided() == decided


def test_what_is_returned() -> None:
    """The finished beams with tokens up to their ends, if the best of them is possible at all."""
    rows: list[Row] = [([5, 3], -1.0), ([5, 6, 7], -INF)]
    best, second = search(rows, rows, [True, True]).hypotheses()
    assert (best.token_ids, best.logprobs, best.finish_reason) == ((5, 3), (-5, -3), "eos")
    assert second.token_ids == (5, 6, 7)
    assert [found.token_ids for found in search(rows, rows, [True, False]).hypotheses()] == [(5, 3)]
    for found, flags in (([rows[1], NONE], [True, False]), ([NONE, NONE], [False, False])):
        with pytest.raises(InvalidOption, match="no further token"):
            search(rows, found, flags).hypotheses()


@pytest.mark.parametrize(
    ("best", "worst", "flags", "options", "over"),
    [
        # Four tokens, whose score is divided by their number: above the worst finished beam they can still win.
        (-4.0, -2.0, [True, True], {}, False),
        (-8.0, -2.0, [True, True], {}, True),
        (-9.0, -2.0, [True, True], {}, True),
        (-9.0, _NEVER, [True, False], {}, False),
        (-4.0, -2.0, [True, True], {"early_stopping": True}, True),
        (-9.0, _NEVER, [True, False], {"early_stopping": True}, False),
        # By the largest length that is possible, where longer is better.
        (-8.0, -1.9, [True, True], {"early_stopping": "never"}, False),
        (-8.0, -1.9, [True, True], {}, True),
        (-8.0, -20.0, [True, True], {"early_stopping": "never", "length_penalty": -0.5}, False),
        (-8.0, -20.0, [True, True], {"early_stopping": False, "length_penalty": -0.5}, False),
        (-24.0, -2.0, [True, True], {"length_penalty": 2.0}, False),
        (-4.0, -2.0, [True, True], {"length_penalty": 0.0}, True),
    ],
)
def test_when_a_search_is_over(
    best: float, worst: float, flags: list[bool], options: dict[str, Any], over: bool
) -> None:
    """By the heuristic that `early_stopping` names; for ever, and where every candidate is complete."""
    running: list[Row] = [([5, 6, 7, 8], best), ([5, 6, 7, 9], best - 40)]
    state = search(running, [([5, 3], worst + 0.1), ([6, 3], worst)], flags, **options)
    some, every = torch.tensor([False, True])
    assert state._is_over(some) == over
    assert state._is_over(every)
    state._improvable = False
    assert state._is_over(some)


@pytest.mark.parametrize(
    ("early", "flags", "improvable", "enters"),
    [
        (False, [True, True], True, True),
        (True, [True, False], True, True),
        (True, [True, True], True, False),
        (False, [True, True], False, False),
    ],
)
def test_what_becomes_a_finished_beam(early: bool, flags: list[bool], improvable: bool, enters: bool) -> None:
    """A complete candidate among the first, by its score for its length, as long as the search is not over."""
    rows: list[Row] = [([5, 3], -0.5), ([6, 3], -0.9 if flags[1] else _NEVER)]
    state = search(rows, rows, flags, early_stopping=early, length_penalty=2.0)
    state._improvable = improvable
    # Incomplete; -3.2 by 2 ** 2; complete, but only there so that enough beams stay open.
    candidates = beams([([7, 7], -0.1), ([8, 3], -3.2), ([9, 3], -0.1)])
    state._finish(candidates, torch.tensor([False, True, True]))
    found = state._finished.tokens[:, 0].tolist()
    assert found == ([5, 8] if enters else [5, 6])
    assert state._is_finished.tolist() == ([True, True] if enters else flags)
    assert float(state._finished.scores[0]) == -0.5
    if enters:
        assert float(state._finished.scores[1]) == pytest.approx(-0.8)


def test_columns_that_nobody_uses() -> None:
    """None are in use in a slot before a request has entered and after it has left."""
    columns = Columns(2, 64, torch.device("cpu"))
    assert [columns.used(0), columns.used(1), columns.total] == [0, 0, 0]
    columns.grow(5)
    columns.enter(1, 5)
    assert [columns.used(0), columns.used(1)] == [0, 5]
    columns.leave(1)
    assert columns.used(1) == 0
