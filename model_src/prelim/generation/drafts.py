"""Draft tokens: what known reports say next, so that one step of a decoder can check several tokens.

Whatever is proposed, the report is the same: a proposed token counts only where token selection has chosen it as well.
So a table may forget or confuse contexts, which costs time and nothing else.

Source: Leviathan et al., "Fast Inference from Transformers via Speculative Decoding", 2023; Katz, "Estimation of
Probabilities from Sparse Data", 1987 (a shorter context where the longer one is not known).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prelim.decoders.weights_file import read_weights, write_weights
from prelim.errors import ArchiveError

MAX_DRAFTS = 4
"""Tokens that are proposed at most. A step then has that many rows more."""

LEAST_CHANCE = 0.3
"""Share of known reports that go on as proposed, from which a token is worth a row."""

LEAST_REPORTS = 2
"""Reports that have a context and its next token; what a single report says is in no table."""

MAX_BYTES = 4_000_000
"""Of the file of a table."""

_CONTEXT = 4
_START = -1  # stands before the first token of a report
_PRIME, _BASE = (1 << 61) - 1, 0x1D8AF0C54EF1739B
_WHOLE = 255
_DTYPES = {"contexts": np.int64, "tokens": np.int32, "shares": np.uint8}
_ENTRIES = (MAX_BYTES - 1024) // sum(np.dtype(dtype).itemsize for dtype in _DTYPES.values())

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Drafts:
    """The table, by contexts of one to four tokens.

    contexts : int64, shape (entries,), their hashes, ascending
    tokens   : int32, shape (entries,), the token that most often comes next
    shares   : uint8, shape (entries,), how often, in parts of 255
    """

    contexts: Array
    tokens: Array
    shares: Array

    def propose(self, text: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that are likely to come next in a report that begins with the tokens of `text`."""
        seen = list(text[-_CONTEXT:]) if len(text) >= _CONTEXT else [_START, *text]
        proposed: list[int] = []
        chance = 1.0
        while len(proposed) < most and (place := self._find(seen)) is not None:
            chance *= int(self.shares[place]) / _WHOLE
            if chance < LEAST_CHANCE:
                break
            proposed.append(int(self.tokens[place]))
            seen = [*seen, proposed[-1]][-_CONTEXT:]
        return proposed

    def _find(self, seen: Sequence[int]) -> int | None:
        """The entry of the longest context that is known."""
        for key in reversed(_hashes(seen)):
            place = int(self.contexts.searchsorted(key))
            if place < len(self.contexts) and self.contexts[place] == key:
                return place
        return None

    def write(self, path: Path) -> None:
        """Write it as safetensors."""
        write_weights(path, {name: torch.from_numpy(getattr(self, name)) for name in _DTYPES})


def count_drafts(reports: Iterable[Sequence[int]]) -> Drafts:
    """The table of known reports, given as the tokens that a decoder would write, the end included.

    Of more than fit into MAX_BYTES, the contexts of most reports are kept. The order of the reports does not matter.
    """
    following: dict[int, Counter[int]] = defaultdict(Counter)
    for report in reports:
        text = [_START, *report]
        seen = {
            (key, text[place])
            for place in range(1, len(text))
            for key in _hashes(text[max(place - _CONTEXT, 0) : place])
        }
        for key, token in seen:
            following[key][token] += 1
    best = ((key, *min(tokens.items(), key=_most_often), tokens.total()) for key, tokens in following.items())
    known = sorted((entry for entry in best if entry[2] >= LEAST_REPORTS), key=lambda entry: (-entry[2], entry[0]))
    kept = sorted(known[:_ENTRIES])
    return Drafts(
        np.array([key for key, _, _, _ in kept], np.int64),
        np.array([token for _, token, _, _ in kept], np.int32),
        np.array([count * _WHOLE // total for _, _, count, total in kept], np.uint8),
    )


def read_drafts(path: Path, vocab_size: int) -> Drafts:
    """Read what `Drafts.write` has written. Raises ArchiveError naming the file if it is not that."""
    arrays = {name: tensor.numpy() for name, tensor in read_weights(path).items()}
    if {name: array.dtype for name, array in arrays.items()} != {name: np.dtype(d) for name, d in _DTYPES.items()}:
        raise ArchiveError(f"{path} is not a table of draft tokens, which has {', '.join(_DTYPES)}; {_MAKE}")
    table = Drafts(**arrays)
    if not table.contexts.shape == table.tokens.shape == table.shares.shape == (table.contexts.size,):
        raise ArchiveError(f"{path} has arrays of different shapes; {_MAKE}")
    if not (np.diff(table.contexts) > 0).all():
        raise ArchiveError(f"{path}: contexts must be ascending; {_MAKE}")
    if not ((table.tokens >= 0) & (table.tokens < vocab_size)).all():
        raise ArchiveError(f"{path} has tokens that the decoder, which knows {vocab_size}, does not know; {_MAKE}")
    return table


_MAKE = "package the model again with --reports, or without"


def _hashes(tokens: Sequence[int]) -> list[int]:
    """Of the last token, of the last two, and so on."""
    key, power = 0, 1
    hashes = []
    for token in reversed(tokens):
        key = (key + (token - _START + 1) * power) % _PRIME
        power = power * _BASE % _PRIME
        hashes.append(key)
    return hashes


def _most_often(counted: tuple[int, int]) -> tuple[int, int]:
    """Order of tokens with their numbers, the most frequent first."""
    token, number = counted
    return -number, token
