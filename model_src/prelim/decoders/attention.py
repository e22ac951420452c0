"""Multi-head attention, as decoders and connectors use it.

Source: Vaswani et al., "Attention Is All You Need", 2017, section 3.2.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from prelim.decoders.linear import Linear

Gathering = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""Attention: query, key, value and the rate of dropout -> what the queries gather, see `Attending`."""

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each of shape (sequences, heads, positions, head_width)."""

FEW_QUERIES = 16
"""Up to so many queries a head two matrix products beat a fused kernel made for many (float32 on a CPU)."""


class Attending:
    """Scaled dot-product attention in all layers of one forward pass; what may be looked at is worked out once.

    mask   : Tensor of bool, shape (sequences, 1, queries, positions), True where a query may look; None: everywhere
    causal : instead of a mask, every query looks at itself and what is before it
    """

    def __init__(self, mask: Tensor | None = None, *, causal: bool = False) -> None:
        self._mask = mask
        self._causal = causal
        self._bias: Tensor | None = None
        self._added: Tensor | None = None

    @property
    def everywhere(self) -> "Attending":
        """Attention to all positions, for what needs no mask."""
        return EVERYWHERE

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """What the queries gather.

        query      : Tensor, shape (sequences, heads, queries, head_width)
        key, value : Tensor, shape (sequences, kv_heads, positions, head_width); heads are a multiple of kv_heads
        dropout    : rate at which attention weights are dropped
        returns    : Tensor, of the shape of `query`
        """
        few = query.shape[1] // key.shape[1] * query.shape[2] <= FEW_QUERIES
        if few and not self._causal and not dropout and key.dtype == torch.float32 and key.device.type == "cpu":
            return self._of_few(query, key, value)
        if self._mask is not None and self._added is None:
            # PyTorch would do this in every layer.
            self._added = torch.zeros_like(self._mask, dtype=query.dtype).masked_fill_(~self._mask, -torch.inf)
        grouped = query.shape[1] != key.shape[1]
        return scaled_dot_product_attention(
            query, key, value, attn_mask=self._added, dropout_p=dropout, is_causal=self._causal, enable_gqa=grouped
        )

    def _of_few(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Queries that share keys stand together, so that each key is read once."""
        sequences, heads, queries, width = query.shape
        batch, positions = sequences * key.shape[1], key.shape[2]
        q = query.reshape(batch, -1, width)
        k, v = key.reshape(batch, positions, width), value.reshape(batch, positions, width)
        scale = width**-0.5
        if self._mask is None:
            weights = torch.bmm(q * scale, k.transpose(1, 2))
        else:
            if self._bias is None:
                shape = (sequences, heads, queries, positions)
                self._bias = _additive(self._mask).expand(shape).reshape(batch, q.shape[1], positions)
            weights = torch.baddbmm(self._bias, q, k.transpose(1, 2), alpha=scale)
        return torch.bmm(weights.softmax(-1), v).view(sequences, heads, queries, width)


def _additive(mask: Tensor) -> Tensor:
    """0 where a query may look, the lowest number where it may not."""
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, torch.finfo(torch.float32).min)


EVERYWHERE = Attending()
"""Attention to all positions."""


def attending_of(sights: Sequence[Tensor | None]) -> list[Attending]:
    """That of every kind of layer, by what its tokens see; None: everything before a token, and itself."""
    return [Attending(sight, causal=sight is None) for sight in sights]


class Attention(nn.Module):
    """Multi-head attention with one fused input projection, its keys and values computed apart.

    width      : of what goes in and comes out
    head_width : of one head; None shares the width among the heads
    dropout    : rate at which attention weights are dropped in training
    memory_width : of what is attended to, if it is another one; keys and values then have a projection of their own
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int | None = None,
        dropout: float = 0.0,
        memory_width: int | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.inner_width = heads * (head_width or width // heads)
        self.dropout = dropout
        apart = memory_width not in (None, width)
        self.in_proj = Linear(width, (1 if apart else 3) * self.inner_width)
        self.memory_proj = nn.Linear(memory_width or width, 2 * self.inner_width) if apart else None
        self.out_proj = nn.Linear(self.inner_width, width)

    def query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the same positions, for self-attention."""
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        return self._split_heads(q), self._split_heads(k), self._split_heads(v)

    def query(self, x: Tensor) -> Tensor:
        """Queries alone, for cross-attention."""
        return self._split_heads(self.in_proj.part(x, 0, self.inner_width))

    def key_value(self, memory: Tensor) -> KeyValue:
        """Keys and values of what is attended to, for cross-attention; the same for every step and every beam."""
        if self.memory_proj is not None:
            k, v = self.memory_proj(memory).chunk(2, dim=-1)
        else:
            k, v = self.in_proj.part(memory, self.inner_width, 3 * self.inner_width).chunk(2, dim=-1)
        return self._split_heads(k), self._split_heads(v)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attending: Gathering) -> Tensor:
        """Attention and output projection, shape (sequences, queries, width)."""
        y = attending(query, key, value, self.dropout if self.training else 0.0)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        """(sequences, positions, inner_width) -> (sequences, heads, positions, head_width)."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)
