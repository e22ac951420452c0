"""Computes the same on several threads."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

THREADS = 7
"""More than the cores of most machines that run this: some start late, and all have to wait at the barriers."""


@pytest.fixture
def same_on_all_threads() -> Iterator[Callable[[Callable[[int], Tensor]], None]]:
    """Compares, bit for bit, what one thread computes with what several do.

    The function gives other numbers in another round, lest what the round before has left in memory is right.
    """
    before = torch.get_num_threads()

    def compare(compute: Callable[[int], Tensor]) -> None:
        torch.set_num_threads(1)
        wanted = [compute(i) for i in range(5)]
        for number in (2, THREADS):
            torch.set_num_threads(number)
            assert all(torch.equal(compute(i), one) for i, one in enumerate(wanted)), f"{number} threads"

    yield compare
    torch.set_num_threads(before)
