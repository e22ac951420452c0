"""Randomness as a function of the place in a run.

Whatever is drawn for a micro-batch comes from a seed that follows from its number. So a run that was stopped continues
exactly where it was, and a micro-batch is the same in whatever process it is computed: no state of a generator is
stored or passed on.
"""

import hashlib

from torch import Generator


def seed_of(seed: int, purpose: str, number: int) -> int:
    """A seed for one purpose at one place; neighboring places have unrelated seeds."""
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator_of(seed: int, purpose: str, number: int) -> Generator:
    """A generator that begins at `seed_of`."""
    return Generator().manual_seed(seed_of(seed, purpose, number))
