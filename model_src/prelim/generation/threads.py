"""How many threads PyTorch uses for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def set_threads(threads: int | None) -> Iterator[None]:
    """Let PyTorch use so many threads; None leaves what is set."""
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
