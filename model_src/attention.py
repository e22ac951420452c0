"""Multi-head attention, as decoders and connectors use it.

Source: Vaswani et al., "Attention Is All You Need", 2017, section 3.2.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from model_src.linear import Linear

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each of shape (sequences, heads, positions, head_width)."""


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as what is added to scores: 0 where a query may look, the lowest number where it may not."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


class Attention(nn.Module):
    """Multi-head attention with one fused input projection, its keys and values computed apart.

    width      : of what goes in and comes out
    head_width : of one head; None shares the width among the heads
    dropout    : rate at which attention weights are dropped in training
    """

    def __init__(self, width: int, heads: int, head_width: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.inner_width = heads * (head_width or width // heads)
        self.dropout = dropout
        self.in_proj = Linear(width, 3 * self.inner_width)
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
        k, v = self.in_proj.part(memory, self.inner_width, 3 * self.inner_width).chunk(2, dim=-1)
        return self._split_heads(k), self._split_heads(v)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention and output projection, shape (sequences, queries, width)."""
        rate = self.dropout if self.training else 0.0
        y = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        return self.out_proj(y.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        """(sequences, positions, inner_width) -> (sequences, heads, positions, head_width)."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)
