"""A decoder's next-token choices along a given text (teacher forcing)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.models.real_models import Prefix
from prelim.decoders.decoder import Decoder

ROWS = 4
"""Tokens per forward pass: few, as in decoding, because kernels for few and for many rows differ."""


@dataclass(frozen=True)
class Reading:
    """A decoder's scores of a text, for each token given all tokens before it.

    choices  : Tensor of int64, shape (tokens,), the decoder's own choice
    margins  : Tensor, shape (tokens,), nats by which it prefers its choice to the second-best
    logprobs : Tensor, shape (tokens,), log-probability of the given token, in nats
    """

    choices: Tensor
    margins: Tensor
    logprobs: Tensor


@torch.inference_mode()
def read(decoder: Decoder[Any], prefix: Prefix, token_ids: Sequence[int]) -> Reading:
    """Score a text after its prefix."""
    ids, image = torch.tensor(token_ids), prefix.image_embeds
    first = decoder.prefix_length(len(image), prefix.prompt_ids)
    slot = slice(0, 1)
    state = decoder.new_state(1)
    state.cache.reserve(1, first + len(ids))
    places = state.cache.prefix_places(slot, first)
    logits = [decoder.prefill(state, places, image[None], torch.tensor([prefix.prompt_ids]))]
    seen = torch.ones(first + len(ids), dtype=torch.bool)
    if decoder.hidden_from_all is not None:
        seen[first:] = ids != decoder.hidden_from_all
    # The prediction after the last token is not needed.
    for start in range(first, first + len(ids) - 1, ROWS):
        part = ids[:-1][start - first :][:ROWS]
        length = start + len(part)
        columns = torch.arange(start, length)
        places = state.cache.places(slot, columns[None], length)
        mask = seen[:length] & (torch.arange(length) <= columns[:, None])
        logits.append(decoder.step(state, places, part[None], columns[None], mask[None, None])[0])
    scores = torch.cat(logits).float().log_softmax(dim=-1)
    best = scores.topk(2, dim=-1)
    return Reading(best.indices[:, 0], best.values[:, 0] - best.values[:, 1], scores.gather(1, ids[:, None])[:, 0])
