"""Decoders: image_embeds and a prompt -> logits, with a KV cache."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prelim.decoders.causal_lm import CausalLMConfig, CausalLMDecoder
from prelim.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder
from prelim.decoders.precision import quantize

KINDS = ("cross_attention", "causal_lm")
"""Every `kind` that the section `decoder` of an archive's model.yaml can have."""


def build_decoder(section: Mapping[str, Any]) -> nn.Module:
    """Build the untrained decoder that the section `decoder` of model.yaml describes.

    Raises ValueError for an unknown kind, TypeError for an unknown or missing dimension.
    """
    dimensions = dict(section)
    kind = dimensions.pop("kind", None)
    if kind == "cross_attention":
        return CrossAttentionDecoder(CrossAttentionConfig(**dimensions))
    if kind == "causal_lm":
        return CausalLMDecoder(CausalLMConfig(**dimensions))
    raise ValueError(f"decoder kind is {kind!r}; known: {', '.join(KINDS)}")


def empty_decoder(section: Mapping[str, Any], precision: str) -> nn.Module:
    """Build the decoder that an archive's model.yaml describes, without its weights.

    Raises ValueError and TypeError as `build_decoder` does.
    """
    # On the meta device nothing is allocated: the weights of a file replace the empty ones.
    with torch.device("meta"):
        return quantize(build_decoder(section), precision)
