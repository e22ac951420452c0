"""Logits of a whole text by one call of a decoder."""

from typing import Any

import torch
from torch import Tensor


def logits_after_each(decoder: Any, image_embeds: Tensor, token_ids: Tensor) -> Tensor:
    """Logits of what follows each token, shape (batch, length, vocab_size), for decoders that begin with one token.

    token_ids : Tensor of int64, shape (batch, length), the start token first
    """
    # What is scored last is not read: any token will do.
    report_ids = torch.nn.functional.pad(token_ids[:, 1:], (0, 1))
    return decoder.teacher_forcing(image_embeds, token_ids[:, :1], report_ids)
