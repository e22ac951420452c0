"""The cross-attention decoder: a post-norm transformer decoder that looks at the image in every layer.

Source: Vaswani et al., "Attention Is All You Need", 2017; post-norm, ReLU, learned positions, as in system 1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, relu, scaled_dot_product_attention

from model_src.decoders.kv_cache import KVCache

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of one layer, each of shape (sequences, heads, positions, head_width)."""


@dataclass(frozen=True)
class CrossAttentionConfig:
    """Dimensions of a cross-attention decoder, as they stand in model.yaml under `decoder`."""

    vocab_size: int
    width: int
    layers: int
    heads: int
    feedforward: int
    max_positions: int
    dropout: float = 0.1
    pad_token_id: int = 0


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(sequences, positions, width) -> (sequences, heads, positions, width / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention with one fused input projection, its keys and values computed apart."""

    def __init__(self, config: CrossAttentionConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.dropout = config.dropout
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the same positions, for self-attention."""
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        return _split_heads(q, self.heads), _split_heads(k, self.heads), _split_heads(v, self.heads)

    def query(self, x: Tensor) -> Tensor:
        """Queries alone, for cross-attention."""
        width = x.shape[-1]
        return _split_heads(nn.functional.linear(x, self.in_proj.weight[:width], self.in_proj.bias[:width]), self.heads)

    def key_value(self, memory: Tensor) -> KeyValue:
        """Keys and values of what is attended to, for cross-attention; the same for every step and every beam."""
        width = memory.shape[-1]
        k, v = nn.functional.linear(memory, self.in_proj.weight[width:], self.in_proj.bias[width:]).chunk(2, dim=-1)
        return _split_heads(k, self.heads), _split_heads(v, self.heads)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention and output projection, shape (sequences, queries, width)."""
        rate = self.dropout if self.training else 0.0
        y = scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each added and then normalised (post-norm)."""

    def __init__(self, config: CrossAttentionConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config)
        self.cross_attention = Attention(config)
        self.linear1 = nn.Linear(config.width, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, config.width)
        self.norm1 = nn.LayerNorm(config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.norm3 = nn.LayerNorm(config.width)
        self.dropout = config.dropout

    def forward(self, x: Tensor, image: KeyValue, cache: KVCache | None, layer: int, mask: Tensor) -> Tensor:
        """One layer; `layer` is its place in the cache."""
        query, key, value = self.self_attention.query_key_value(x)
        if cache is not None:
            key, value = cache.update(key, value, layer)
        x = self.norm1(x + self._drop(self.self_attention.attend(query, key, value, mask)))
        query = self.cross_attention.query(x)
        x = self.norm2(x + self._drop(self.cross_attention.attend(query, *image, mask=None)))
        y = self.linear2(self._drop(relu(self.linear1(x))))
        return self.norm3(x + self._drop(y))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)


class CrossAttentionDecoder(nn.Module):
    """Token and position embeddings, the layers, and the projection to the vocabulary."""

    def __init__(self, config: CrossAttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.position_embedding = nn.Parameter(torch.randn(config.max_positions, config.width) * 0.02)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.lm_head = nn.Linear(config.width, config.vocab_size)

    def image_key_values(self, image_embeds: Tensor) -> list[KeyValue]:
        """Cross-attention keys and values of every layer, computed once per image and shared by its beams.

        image_embeds : Tensor, shape (images, num_tokens, width)
        """
        return [layer.cross_attention.key_value(image_embeds) for layer in self.layers]

    def hidden_states(
        self, token_ids: Tensor, positions: Tensor, image: list[KeyValue], cache: KVCache | None, mask: Tensor
    ) -> Tensor:
        """The last layer's output.

        token_ids : Tensor of int64, shape (sequences, queries)
        positions : Tensor of int64, shape (sequences, queries)
        image     : what `image_key_values` gave, for the same sequences
        cache     : receives keys and values of these tokens; None attends among these tokens alone
        mask      : Tensor of bool, shape (sequences, 1, queries, columns), True where a query may look
        returns   : Tensor, shape (sequences, queries, width)
        """
        x = self.token_embedding(token_ids) + self.position_embedding[positions]
        for i, layer in enumerate(self.layers):
            x = layer(x, image[i], cache, i, mask)
        return x

    def forward(self, image_embeds: Tensor, token_ids: Tensor) -> Tensor:
        """Teacher forcing: logits for every position, as training needs them.

        image_embeds : Tensor, shape (batch, num_tokens, width)
        token_ids    : Tensor of int64, shape (batch, length), padded with `pad_token_id`
        returns      : logits, Tensor, shape (batch, length, vocab_size); logits[:, i] predicts token i + 1
        """
        length = token_ids.shape[1]
        positions = torch.arange(length, device=token_ids.device).expand_as(token_ids)
        causal = torch.ones(length, length, dtype=torch.bool, device=token_ids.device).tril()
        mask = causal & (token_ids != self.config.pad_token_id)[:, None, None, :]
        image = self.image_key_values(image_embeds)
        return self.lm_head(self.hidden_states(token_ids, positions, image, None, mask))
