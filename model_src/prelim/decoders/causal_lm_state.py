"""What a causal language model remembers of the requests in its slots."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prelim.decoders.kv_cache import KVCache, Places


class CausalLMState:
    """The cache, and the position of each of its columns where layers see a window: columns are used again.

    positions : Tensor of int64, shape (slots, columns); empty where no layer has a window
    """

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache
        self.positions = torch.zeros(0, 0, dtype=torch.int64, device=cache.layers[0].device)

    @property
    def tensors(self) -> Sequence[Tensor]:
        """The cache's, and the positions."""
        return [*self.cache.layers, self.positions]

    def remember(self, places: Places, positions: Tensor) -> None:
        """Note the positions, shape (slots, queries), of tokens that are written to these places."""
        slots, columns = self.positions.shape
        _, all_slots, _, all_columns, _ = places.layers[0].shape
        more_slots, more_columns = max(all_slots - slots, 0), max(all_columns - columns, 0)
        if more_slots or more_columns:
            self.positions = nn.functional.pad(self.positions, (0, more_columns, 0, more_slots))
        self.positions[places.slots].scatter_(1, places.columns, positions)

    def move(self, source: int, target: int, columns: int) -> None:
        """Copy one slot over another; the first `columns` columns of its cache are in use."""
        self.cache.move(source, target, columns)
        if len(self.positions):
            self.positions[target] = self.positions[source]

    def clear(self, slot: int, columns: int) -> None:
        """Forget a request; the first `columns` columns of its slot's cache are in use."""
        self.cache.clear(slot, columns)
