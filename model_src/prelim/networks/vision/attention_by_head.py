"""Attention of one head after the other, so that the scores of only one of them are in memory."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

BY_HEAD = "by_head"
"""Its name as an `attn_implementation` of transformers."""

LARGEST_SCORES = 2**28
"""Bytes of an image's scores in one layer, above which heads are computed one after the other."""


def choose_attention(patches: int, heads: int) -> str:
    """The `attn_implementation` for images of so many patches that all look at each other."""
    return BY_HEAD if 4 * heads * patches**2 > LARGEST_SCORES else "sdpa"


def attend_by_head(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    """Attention, shape (batch, heads, patches, head width) in and out.

    mask    : Tensor of bool, shape (batch, 1, 1, patches): False for those that nobody looks at
    options : of scaled_dot_product_attention
    """
    heads = zip(*(part.chunk(part.shape[1], dim=1) for part in (query, key, value)), strict=True)
    return torch.cat([scaled_dot_product_attention(q, k, v, mask, **options) for q, k, v in heads], dim=1)


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The same as transformers calls it; returns shape (batch, patches, heads, head width)."""
    attended = attend_by_head(
        query, key, value, attention_mask, scale=options["scaling"], dropout_p=options.get("dropout", 0.0)
    )
    return attended.transpose(1, 2).contiguous(), None


AttentionInterface.register(BY_HEAD, _attend)
