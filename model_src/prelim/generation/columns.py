"""Which columns of the KV cache belong to which request, and how many one request can need."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prelim.errors import InvalidOption
from prelim.generation.options import MAX_BEAMS, GenerationOptions

DEFAULT_COLUMNS = 2560
"""Columns of a request unless set otherwise: 512 for image and prompt and 2048 for text, 8 beams of 256 tokens."""

KEPT_COLUMNS = 512
"""Columns for each slot that stay allocated when the requests that needed more have left."""

_BLOCK = 64
"""The cache grows by half, to a multiple of this many columns: all that is in it is copied each time."""


def columns_needed(prefix: int, options: GenerationOptions) -> int:
    """The largest number of cache columns that a request can come to occupy.

    The tokens of step k, k = 1 ... max_new_tokens - 1, take the first columns of the slot that none of its rows looks
    at. Each row looks at the prefix and at most one column for each of the k - 1 steps before, so that at most
    prefix + rows * (k - 1) columns are looked at. A step takes a column for every row of the widest request in the
    batch, at most MAX_BEAMS, and the first free ones lie within that many columns after the number that is looked at.
    The last token is chosen in step max_new_tokens - 1 and never written. Beams usually share columns and need far
    fewer; independent draws (`num_return_sequences`) need all of them.
    """
    steps = options.max_new_tokens - 1
    return prefix if steps == 0 else prefix + options.rows * (steps - 1) + MAX_BEAMS


def check_columns(prefix: int, options: GenerationOptions, limit: int) -> None:
    """Raise InvalidOption when a request can need more than `limit` columns, naming what would be allowed."""
    needed, rows, tokens = columns_needed(prefix, options), options.rows, options.max_new_tokens
    if needed <= limit:
        return
    name = "num_beams" if options.num_beams > 1 else "num_return_sequences"
    room = limit - prefix - MAX_BEAMS
    if room < 0:
        raise InvalidOption(
            f"image and prompt take {prefix} of the {limit} cache columns that a request may use here; shorten the "
            "prompt, or ask the operator for a larger max_cache_mb",
            "prompt",
        )
    ways = [f"max_new_tokens up to {room // rows + 2} with {name} {rows}"]
    # At least three tokens: two never need more than `room` leaves.
    if (fewer := room // (tokens - 2)) >= 1:
        ways.append(f"{name} up to {fewer} with max_new_tokens {tokens}")
    raise InvalidOption(
        f"{name} {rows} and max_new_tokens {tokens} can take {needed} cache columns; a request may use {limit} here. "
        f"Allowed: {', or '.join(ways)}",
        name,
    )


class Columns:
    """The columns of every slot: how far they are in use, and which of them each row looks at (its ancestry).

    When beams are reordered only the ancestry changes, never the cache. Kept on the host, whatever the device: an
    operation on so few numbers takes less time there than it takes to start one on a device.

    total : columns that are allocated for each slot
    limit : columns that a slot may have
    """

    def __init__(self, slots: int, limit: int) -> None:
        self.limit = limit
        self._ancestry = np.zeros((slots, MAX_BEAMS, 0), dtype=np.bool_)
        self._used = [0] * slots

    @property
    def total(self) -> int:
        """Columns that are allocated for each slot."""
        return self._ancestry.shape[2]

    def used(self, slot: int) -> int:
        """Columns of a slot up to the last one that has been written."""
        return self._used[slot]

    def enter(self, slot: int, prefix: int) -> None:
        """Start a request whose rows all look at their first `prefix` columns."""
        self._ancestry[slot] = False
        self._ancestry[slot, :, :prefix] = True
        self._used[slot] = prefix

    def assign(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """Columns for the next token of each row: the first ones that no row of the slot looks at.

        Those of dropped beams are used again, so a search takes little more room than its longest beam.

        rows    : of the request in each slot
        returns : shape (slots, most rows)
        """
        most = max(rows)
        length = min(max(self._used[: len(rows)]) + most, self.limit)
        self.grow(length)
        columns = np.empty((len(rows), most), dtype=np.int64)
        for slot, own in enumerate(rows):
            seen = self._ancestry[slot, :own, :length].any(axis=0)
            columns[slot] = np.flatnonzero(~seen)[:most]
            self._used[slot] = max(self._used[slot], int(columns[slot, -1]) + 1)
        return columns

    def split(self, drafts: Sequence[int]) -> None:
        """Let rows of drafts look at what the first row of their slot looks at.

        drafts : their number in each slot
        """
        for slot, count in enumerate(drafts):
            if count:
                self._ancestry[slot, 1 : count + 1] = self._ancestry[slot, 0]

    def look_at(
        self, columns: NDArray[np.int64], own: NDArray[np.bool_], drafts: Sequence[int] = ()
    ) -> NDArray[np.bool_]:
        """Let rows look at their own next tokens, drafts at those before them too; return what every row looks at.

        columns : what `assign` gave
        own     : of the same shape: False for tokens that no row may look at
        drafts  : as in `split`
        returns : shape (slots, 1, rows, columns in use)
        """
        slots, rows = columns.shape
        self._ancestry[np.arange(slots)[:, None], np.arange(rows), columns] = own
        for slot, count in enumerate(drafts):
            for row in range(1, count + 1):
                self._ancestry[slot, row, columns[slot, :row]] = own[slot, :row]
        return self._ancestry[:slots, None, :rows, : max(self._used[:slots])]

    def reorder(self, slot: int, parents: Sequence[int]) -> None:
        """Let each row of a slot look at what its parent looks at."""
        self._ancestry[slot, : len(parents)] = self._ancestry[slot, parents]

    def move(self, source: int, target: int) -> None:
        """Copy one slot over another."""
        self._ancestry[target] = self._ancestry[source]
        self._used[target] = self._used[source]

    def leave(self, slot: int) -> None:
        """A slot without a request."""
        self._ancestry[slot] = False
        self._used[slot] = 0

    def grow(self, columns: int) -> None:
        """Allocate at least so many columns."""
        if columns > self.total:
            total = max(columns, self.total * 3 // 2)
            total = min(total + -total % _BLOCK, max(self.limit, columns))
            self._ancestry = np.pad(self._ancestry, ((0, 0), (0, 0), (0, total - self.total)))

    def shrink(self) -> bool:
        """Give up what is allocated beyond KEPT_COLUMNS, if no slot uses it; whether that is so."""
        if self.total <= KEPT_COLUMNS or max(self._used) > KEPT_COLUMNS:
            return False
        self._ancestry = self._ancestry[:, :, :KEPT_COLUMNS].copy()
        return True
