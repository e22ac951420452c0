"""Decoders: image_embeds and a prompt -> logits, with a KV cache."""

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from prelim.decoders.causal_lm import CausalLMConfig, CausalLMDecoder
from prelim.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder
from prelim.decoders.decoder import Decoder
from prelim.decoders.packed import pack
from prelim.decoders.precision import quantize, stored_weights
from prelim.decoders.weights_file import LazyTensor, made

KINDS = ("cross_attention", "causal_lm", "transformers")
"""Every `kind` that the section `decoder` of model.yaml can have; `transformers` is served as `causal_lm`."""


def build_decoder(section: Mapping[str, Any]) -> nn.Module:
    """An untrained decoder as the section `decoder` of model.yaml describes it.

    Raises ValueError for an unknown kind or model type, TypeError for an unknown or missing dimension.
    """
    dimensions = dict(section)
    kind = dimensions.pop("kind", None)
    if kind == "cross_attention":
        return CrossAttentionDecoder(CrossAttentionConfig(**dimensions))
    if kind == "causal_lm":
        return CausalLMDecoder(CausalLMConfig(**dimensions))
    if kind == "transformers":
        # `transformers` takes seconds to import, and the server needs none of it.
        from prelim.networks.transformers_lm import TransformersLM

        return TransformersLM(dimensions)
    raise ValueError(f"decoder kind is {kind!r}; known: {', '.join(KINDS)}")


class Trainable(Protocol):
    """A decoder that is trained and imported, and that knows how it is served."""

    def served(self) -> tuple[dict[str, Any], Mapping[str, Tensor | LazyTensor]]:
        """Section `decoder` of an archive's model.yaml, and the weights of the decoder that it describes.

        Raises ValueError where no such decoder computes the same.
        """


def for_serving(decoder: Trainable, precision: str) -> tuple[dict[str, Any], nn.Module, dict[str, Tensor | LazyTensor]]:
    """What an archive holds of a decoder.

    returns : section `decoder` of model.yaml, the decoder that is served, still empty, and its stored weights

    Raises ValueError for a decoder that cannot be served, or not in this precision.
    """
    section, weights = decoder.served()
    empty = empty_decoder(section, precision)
    return section, empty, stored_weights(empty, weights, precision)


def empty_decoder(section: Mapping[str, Any], precision: str) -> nn.Module:
    """The decoder that an archive's model.yaml describes, without its weights.

    Raises ValueError and TypeError as `build_decoder` does.
    """
    # On the meta device nothing is allocated: the weights of a file take the place of the empty ones.
    with torch.device("meta"):
        return quantize(build_decoder(section), precision)


def serving_decoder(decoder: nn.Module, precision: str = "fp32", *, packed: bool = True) -> Decoder[Any]:
    """A decoder in memory as it would be served from an archive.

    packed : its weights are packed for the processor, see `pack`

    Raises ValueError as `for_serving` does.
    """
    _, served, weights = for_serving(cast("Trainable", decoder), precision)
    served.load_state_dict({name: made(tensor) for name, tensor in weights.items()}, assign=True)
    return cast("Decoder[Any]", (pack(served) if packed else served).eval().requires_grad_(False))
