"""The largest scores are found as `topk` finds them."""

import pytest
import torch

from prelim.generation.logits import largest


@pytest.mark.parametrize("vocab_size", [40, 12_288, 12_301, 42_384])
def test_the_largest_are_those_of_topk(vocab_size: int) -> None:
    """Values and places are `topk`'s, wherever they lie, some scores being minus infinity."""
    scores = torch.randn(3, vocab_size, generator=torch.Generator().manual_seed(vocab_size))
    scores[0, ::2] = -torch.inf
    scores[1, -3:] += 10  # after the last whole block
    scores[2, 7:13] += 10  # all in one block
    for found, expected in zip(largest(scores, 6), scores.topk(6, dim=1), strict=True):
        assert torch.equal(found, expected)
