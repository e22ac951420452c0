"""The append-only KV cache: one prefix for all beams of a request, one column per beam and step after it."""

import torch
from torch import Tensor


class KVCache:
    """Keys and values of every layer, by slots, a slot being one request with all its beams.

    A column is one position of one beam. What is written stays where it is: reordering beams changes which columns a
    beam may look at (a mask that the caller keeps), never the cache. Decoders call `update`; the caller says
    beforehand with `open` where the next tokens go.
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
        shape = (0, heads, 0, head_width)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self._slots = slice(0, 0)
        self._places = torch.empty(0, dtype=torch.int64)
        self._length = 0

    @property
    def columns(self) -> int:
        """Columns that are allocated for each slot."""
        return self.keys[0].shape[2]

    def reserve(self, slots: int, columns: int) -> None:
        """Allocate at least so many slots, and columns for each of them; what is in the cache stays."""
        more_slots, more_columns = max(slots - self.keys[0].shape[0], 0), max(columns - self.columns, 0)
        if more_slots or more_columns:
            grown = (0, 0, 0, more_columns, 0, 0, 0, more_slots)
            for tensors in (self.keys, self.values):
                for i, tensor in enumerate(tensors):
                    tensors[i] = torch.nn.functional.pad(tensor, grown)

    def open(self, slots: slice, columns: Tensor, length: int) -> None:
        """Say where the tokens of the next forward pass go.

        slots   : the slots that take part
        columns : Tensor of int64, shape (slots, queries): the column of every token
        length  : columns that attention looks at, at least every column written so far in these slots
        """
        first, _, _ = slots.indices(self.keys[0].shape[0])
        heads = self.keys[0].shape[1]
        row = (first + torch.arange(len(columns), device=columns.device))[:, None] * heads
        head = torch.arange(heads, device=columns.device)
        # The cache seen as a list of vectors: slot, head and column of each make one number.
        self._places = ((row + head)[:, :, None] * self.columns + columns[:, None]).flatten()
        self._slots = slots
        self._length = length

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Write the keys and values of one layer and return all that attention needs.

        key, value : Tensor, shape (slots, heads, queries, head_width)
        returns    : keys and values, each a view of shape (slots, heads, length, head_width)
        """
        written = []
        for cache, new in ((self.keys[layer], key), (self.values[layer], value)):
            width = new.shape[-1]
            cache.view(-1, width).index_copy_(0, self._places, new.reshape(-1, width))
            written.append(cache[self._slots, :, : self._length])
        return written[0], written[1]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` columns of one slot over another."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]
