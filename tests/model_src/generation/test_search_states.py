"""What beam search decides in states that a hand has set: what is over, what is finished, what is decided."""

from typing import Any

import pytest
import torch

from prelim.errors import InvalidOption
from prelim.generation.beam_search import _NEVER, BeamSearch, _Beam
from prelim.generation.columns import Columns
from prelim.generation.hypothesis import StopRule
from prelim.generation.options import GenerationOptions

INF = float("inf")
Row = tuple[list[int], float]
"""Tokens of a beam and its score."""


def beams(rows: list[Row]) -> list[_Beam]:
    """Beams with these tokens and scores; each token has a log-probability of its own."""
    return [_Beam(tokens, score, [-float(token) for token in tokens]) for tokens, score in rows]


def search(running: list[Row], finished: list[Row], **options: Any) -> BeamSearch:
    """A search in this state."""
    count = len(running)
    asked = GenerationOptions(num_beams=count, num_return_sequences=count, max_new_tokens=10, **options)
    made = BeamSearch(asked, torch.tensor([1]), StopRule(torch.tensor([3]), 10, (), str), None)
    made._running, made._finished = beams(running), beams(finished)
    return made


@pytest.mark.parametrize(
    ("running", "finished", "decided"),
    [
        ([([5, 6, 7], -1), ([5, 6, 8], -2)], [], [5, 6]),
        ([([5, 6, 7], -1), ([4, 6, 7], -INF)], [], [5, 6, 7]),
        # The best that is finished can be returned, a worse one can not.
        ([([5, 6, 7], -1), ([5, 6, 8], -2)], [([5, 3], -1), ([4, 3], -2)], [5]),
        ([([5, 6, 7], -1), ([5, 6, 8], -2)], [([5, 6, 3], -1)], [5, 6]),
        ([([5, 6, 7], -1), ([5, 6, 8], -2)], [([5, 6, 3], -1), ([5, 3], -1)], [5]),
        ([([5], -INF), ([6], -INF)], [([5, 3], -1), ([4, 3], -2)], [5, 3]),
    ],
)
def test_what_no_later_step_can_change(running: list[Row], finished: list[Row], decided: list[int]) -> None:
    """The tokens that all beams have in common which may still be the best."""
    assert search(running, finished).decided() == decided


def test_what_is_returned() -> None:
    """The finished beams, best first."""
    rows: list[Row] = [([5, 3], -1.0), ([5, 6, 7], -2.0)]
    best, second = search(rows, rows).hypotheses()
    assert (best.token_ids, best.logprobs, best.finish_reason) == ((5, 3), (-5, -3), "eos")
    assert second.token_ids == (5, 6, 7)
    assert [found.token_ids for found in search(rows, rows[:1]).hypotheses()] == [(5, 3)]
    with pytest.raises(InvalidOption, match="no further token"):
        search(rows, []).hypotheses()


@pytest.mark.parametrize(
    ("best", "worst", "options", "over"),
    [
        # Four tokens, whose score is divided by their number: above the worst finished beam they can still win.
        (-4.0, -2.0, {}, False),
        (-8.0, -2.0, {}, True),
        (-9.0, -2.0, {}, True),
        (-9.0, None, {}, False),
        (-INF, None, {}, True),
        (-4.0, -2.0, {"early_stopping": True}, True),
        (-9.0, None, {"early_stopping": True}, False),
        # By the largest length that is possible, where longer is better.
        (-8.0, -1.9, {"early_stopping": "never"}, False),
        (-8.0, -1.9, {}, True),
        (-8.0, -20.0, {"early_stopping": "never", "length_penalty": -0.5}, False),
        (-8.0, -20.0, {"early_stopping": False, "length_penalty": -0.5}, False),
        (-24.0, -2.0, {"length_penalty": 2.0}, False),
        (-4.0, -2.0, {"length_penalty": 0.0}, True),
        # Of a beam that never wins, that is more than float32 has.
        (_NEVER, None, {"length_penalty": -5.0}, True),
    ],
)
def test_when_a_search_is_over(best: float, worst: float | None, options: dict[str, Any], over: bool) -> None:
    """By the heuristic that `early_stopping` names; for ever, and where every candidate is complete."""
    running: list[Row] = [([5, 6, 7, 8], best), ([5, 6, 7, 9], best - 40)]
    finished: list[Row] = [([5, 3], -1.0)] if worst is None else [([5, 3], worst + 0.1), ([6, 3], worst)]
    state = search(running, finished, **options)
    assert state._is_over(False) == over
    assert state._is_over(True)
    state._improvable = False
    assert state._is_over(False)


@pytest.mark.parametrize("full", [True, False])
def test_what_becomes_a_finished_beam(full: bool) -> None:
    """A complete candidate among the first, by its score for its length, if it is possible at all."""
    rows: list[Row] = [([5, 3], -0.5), ([6, 3], -0.9)]
    state = search(rows, rows if full else rows[:1], length_penalty=2.0)
    # Incomplete; -3.2 by 2 ** 2; complete, but only there so that enough beams stay open.
    candidates = beams([([7, 7], -0.1), ([8, 3], -3.2), ([9, 3], -0.1)])
    state._finish(candidates, [False, True, True])
    assert [beam.tokens[0] for beam in state._finished] == [5, 8]
    assert [beam.score for beam in state._finished] == [-0.5, pytest.approx(-0.8)]
    for impossible in (-INF, _NEVER):
        state = search(rows, rows[:1], length_penalty=0.0)
        state._finish(beams([([7, 3], impossible), ([8, 3], impossible)]), [True, True])
        assert [beam.tokens[0] for beam in state._finished] == [5]


def test_columns_that_nobody_uses() -> None:
    """None are in use in a slot before a request has entered and after it has left."""
    columns = Columns(2, 64)
    assert [columns.used(0), columns.used(1), columns.total] == [0, 0, 0]
    columns.grow(5)
    columns.enter(1, 5)
    assert [columns.used(0), columns.used(1)] == [0, 5]
    columns.leave(1)
    assert columns.used(1) == 0
