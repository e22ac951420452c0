"""Decoders: image_embeds and a prompt -> logits, with a KV cache."""

from collections.abc import Mapping
from typing import Any

from model_src.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder

DECODERS = {"cross_attention": (CrossAttentionDecoder, CrossAttentionConfig)}
"""Every kind of decoder, by the `kind` in the section `decoder` of model.yaml: its class and its dimensions."""


def build_decoder(section: Mapping[str, Any]) -> CrossAttentionDecoder:
    """An untrained decoder as the section `decoder` of model.yaml describes it.

    Raises ValueError for an unknown kind, TypeError for an unknown or missing dimension.
    """
    dimensions = dict(section)
    kind = dimensions.pop("kind", None)
    if kind not in DECODERS:
        raise ValueError(f"decoder kind is {kind!r}; known: {', '.join(DECODERS)}")
    decoder, config = DECODERS[kind]
    return decoder(config(**dimensions))
