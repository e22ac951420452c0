"""Positions of tokens whose images are grids."""

import pytest
import torch

from prelim.decoders.causal_lm import CausalLMConfig, CausalLMDecoder
from prelim.decoders.decoder import IMAGE
from prelim.decoders.grid_positions import grid_positions, turn_sections


def test_images_count_rows_and_columns_from_what_is_before() -> None:
    """Text after an image follows its longer side."""
    token_ids = torch.tensor([7, 8, *[IMAGE] * 6, 9, *[IMAGE] * 2, 5])

    found = grid_positions(token_ids, [(2, 3), (2, 1)])

    assert found.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 6, 8],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 7, 8],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 6, 8],
    ]


def test_text_alone_has_positions_of_text() -> None:
    """Without images the three are equal."""
    assert grid_positions(torch.tensor([5, 6, 7]), []).tolist() == [[0, 1, 2]] * 3


def test_images_may_be_next_to_each_other() -> None:
    """Each is a grid of its own."""
    assert grid_positions(torch.tensor([IMAGE] * 4), [(1, 2), (2, 1)]).tolist() == [
        [0, 0, 2, 2],
        [0, 0, 2, 3],
        [0, 1, 2, 2],
    ]


@pytest.mark.parametrize(
    ("token_ids", "grids", "message"),
    [
        ([5, IMAGE, IMAGE], [], "has 2 tokens of images; their grids are"),
        ([5, IMAGE, IMAGE], [(1, 3)], "has 2 tokens of images"),
        ([IMAGE, 5, IMAGE], [(1, 2)], "1 x 2 are not next to each other"),
    ],
)
def test_grids_of_other_images_are_refused(token_ids: list[int], grids: list[tuple[int, int]], message: str) -> None:
    """Their number of tokens and their places must be those of the prompt."""
    with pytest.raises(ValueError, match=message):
        grid_positions(torch.tensor(token_ids), grids)


def test_sections_turn_by_time_rows_and_columns_in_turn() -> None:
    """Each has its frequencies."""
    angles = torch.arange(3)[:, None] * 100 + torch.arange(6.0)
    assert turn_sections(angles, [2, 1, 1, 2]).tolist() == [0, 1, 102, 203, 4, 5]


SIZES = {"vocab_size": 9, "width": 16, "layers": 1, "heads": 2, "feedforward": 8, "max_positions": 32}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"rotary_sections": (1, 1, 1)}, "expected numbers with the sum 4"),
        ({"rotary_sections": (-1, 2, 3)}, "expected numbers with the sum 4"),
        ({"rotary_sections": (1, 1, 2), "position_offset": 0}, "no decoder has both"),
        ({"rotary_sections": (1, 1, 2), "window": 3, "window_layers": (0,)}, "no decoder has both"),
    ],
)
def test_sections_that_cannot_be_served_are_refused(parts: dict, message: str) -> None:
    """A head has as many frequencies as its half is wide."""
    with pytest.raises(ValueError, match=message):
        CausalLMConfig(**SIZES, **parts)


def test_a_report_begins_after_the_longer_side_of_the_image() -> None:
    """And at the length of the prefix where positions are those in the text."""
    prompt = (7, *[IMAGE] * 6, 8)
    plain, sectioned = (CausalLMDecoder(CausalLMConfig(**SIZES, rotary_sections=s)) for s in ((), (1, 1, 2)))

    assert (plain.next_position(prompt, ()), sectioned.next_position(prompt, [(2, 3)])) == (8, 5)
