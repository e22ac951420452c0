"""Decoders: image_embeds and a prompt -> logits, with a KV cache."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from model_src.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder

KINDS = ("cross_attention", "causal_lm")
"""Every `kind` that the section `decoder` of model.yaml can have."""


def build_decoder(section: Mapping[str, Any]) -> nn.Module:
    """An untrained decoder as the section `decoder` of model.yaml describes it.

    Raises ValueError for an unknown kind or model type, TypeError for an unknown or missing dimension.
    """
    dimensions = dict(section)
    kind = dimensions.pop("kind", None)
    if kind == "cross_attention":
        return CrossAttentionDecoder(CrossAttentionConfig(**dimensions))
    if kind == "causal_lm":
        # `transformers` takes seconds to import, which a worker without a language model need not wait for.
        from model_src.decoders.causal_lm import CausalLMDecoder

        return CausalLMDecoder(dimensions)
    raise ValueError(f"decoder kind is {kind!r}; known: {', '.join(KINDS)}")
