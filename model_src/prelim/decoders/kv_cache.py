"""The KV cache: one prefix for all beams of a request, then a column for each token of a beam.

Columns of beams that search has dropped are used again: docs/decisions/0020-cache-columns-are-reused.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Where the tokens of one forward pass go in a cache, and which columns they may look at; see `KVCache.places`.

    layers  : keys and values of each layer of the cache
    slots   : the slots that take part
    columns : Tensor of int64, shape (slots, queries): the column of every token
    length  : columns that attention looks at, at least every column written so far in these slots
    """

    layers: Sequence[Tensor]
    slots: slice
    columns: Tensor
    length: int

    def store(self, key_value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Write the keys and values of one layer and return all that attention needs.

        key_value : Tensor, shape (2, slots, heads, queries, head_width)
        returns   : keys and values, each a view of shape (slots, heads, length, head_width)
        """
        cache, width = self.layers[layer], key_value.shape[-1]
        cache.view(-1, width).index_copy_(0, self._vectors, key_value.reshape(-1, width))
        keys, values = cache[:, self.slots, :, : self.length]
        return keys, values

    @cached_property
    def _vectors(self) -> Tensor:
        """Indices of the tokens, a layer seen as a list of vectors: key or value, slot, head, column."""
        device = self.columns.device
        _, all_slots, heads, all_columns, _ = self.layers[0].shape
        both = torch.arange(2, device=device)[:, None, None] * all_slots
        slot = (both + torch.arange(self.slots.start, self.slots.stop, device=device)[:, None]) * heads
        head = slot + torch.arange(heads, device=device)
        return (head[..., None] * all_columns + self.columns[:, None]).flatten()


class KVCache:
    """Keys and values of every layer, by slots, a slot being one request with all its beams.

    layers : keys and values of each, shape (2, slots, heads, columns, head_width)

    A column is one position of one beam. Written columns never move: reordering beams changes which columns a
    beam may look at (a mask that the caller keeps), never the cache. Columns without a token are zero.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        head_width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.layers = [torch.zeros(2, 0, heads, 0, head_width, dtype=dtype, device=device) for _ in range(layers)]

    @property
    def columns(self) -> int:
        """Columns that are allocated for each slot."""
        return self.layers[0].shape[3]

    def reserve(self, slots: int, columns: int) -> None:
        """Allocate at least so many slots, and columns for each of them; what is in the cache stays."""
        more_slots, more_columns = max(slots - self.layers[0].shape[1], 0), max(columns - self.columns, 0)
        if more_slots or more_columns:
            grown = (0, 0, 0, more_columns, 0, 0, 0, more_slots)
            for i, layer in enumerate(self.layers):
                self.layers[i] = torch.nn.functional.pad(layer, grown)

    @property
    def column_bytes(self) -> int:
        """Bytes of one column of one slot, all layers together."""
        _, _, heads, _, head_width = self.layers[0].shape
        return len(self.layers) * 2 * heads * head_width * self.layers[0].itemsize

    def narrow(self, columns: int) -> None:
        """Keep only the first `columns` columns of each slot, and give the memory of the others back."""
        for i, layer in enumerate(self.layers):
            self.layers[i] = layer[:, :, :, :columns].clone(memory_format=torch.contiguous_format)

    def clear(self, slot: int, length: int) -> None:
        """Set the first `length` columns of a slot to zero, which is what the columns after them are.

        Attention multiplies masked columns by zero, and 0 x NaN is NaN: what a request leaves in the cache must not
        reach the next one.
        """
        for layer in self.layers:
            layer[:, slot, :, :length] = 0

    def places(self, slots: slice, columns: Tensor, length: int) -> Places:
        """Where the tokens of the next forward pass go, as `Places` says; the cache must have room for them."""
        return Places(self.layers, slots, columns, length)

    def prefix_places(self, slots: slice, length: int, first: int = 0) -> Places:
        """The columns from `first` on among the first `length` of each of these slots."""
        columns = torch.arange(first, length, device=self.layers[0].device).expand(slots.stop - slots.start, -1)
        return self.places(slots, columns, length)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` columns of one slot over another."""
        for layer in self.layers:
            layer[:, target, :, :length] = layer[:, source, :, :length]
