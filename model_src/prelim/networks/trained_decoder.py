"""Builds trainable decoders and converts them to their serving form."""

from collections.abc import Mapping
from typing import Any, Protocol, cast

from torch import Tensor, nn

from prelim import decoders
from prelim.decoders import empty_decoder
from prelim.decoders.captured import captured
from prelim.decoders.decoder import Decoder, Grids
from prelim.decoders.packed import pack
from prelim.decoders.precision import Moments, stored_weights
from prelim.decoders.weights_file import LazyTensor, Weights, materialize

KINDS = (*decoders.KINDS, "transformers")
"""Allowed `decoder.kind` of a model folder; `transformers` is served as `causal_lm`, or as `cross_attention` where its
`add_cross_attention` is set."""


def build_decoder(section: Mapping[str, Any]) -> nn.Module:
    """Build the untrained decoder that the section `decoder` of a model folder's model.yaml describes.

    Raises ValueError for an unknown kind or model type, TypeError for an unknown or missing dimension.
    """
    kind = section.get("kind")
    if kind not in KINDS:
        raise ValueError(f"decoder kind is {kind!r}; known: {', '.join(KINDS)}")
    if kind == "transformers":
        values = {name: value for name, value in section.items() if name != "kind"}
        # Imported here because `transformers` takes seconds to import.
        if section.get("add_cross_attention"):
            from prelim.networks.transformers_cross_attention import TransformersCrossAttention

            return TransformersCrossAttention(values)
        from prelim.networks.transformers_lm import TransformersLM

        return TransformersLM(values)
    return decoders.build_decoder(section)


class Trainable(Protocol):
    """A decoder for training and import that can be converted to its serving form."""

    def teacher_forcing(
        self, image_embeds: Tensor, prompt_ids: Tensor, report_ids: Tensor, grids: Grids = ()
    ) -> Tensor:
        """Logits of given reports, shape (batch, report_length, vocab_size); see `Decoder.teacher_forcing`."""

    def served(self) -> tuple[dict[str, Any], Weights]:
        """Section `decoder` of an archive's model.yaml, and the weights of that decoder.

        Raises ValueError if no serving decoder is equivalent.
        """


def for_serving(
    decoder: Trainable, precision: str, moments: Moments | None = None
) -> tuple[dict[str, Any], nn.Module, dict[str, Tensor | LazyTensor]]:
    """Convert a decoder to the form stored in an archive.

    moments : as `stored_weights` takes them
    returns : section `decoder` of model.yaml, the served decoder without weights, and its stored weights

    Raises ValueError if the decoder cannot be served in this precision.
    """
    section, weights = decoder.served()
    empty = empty_decoder(section, precision)
    return section, empty, stored_weights(empty, weights, precision, moments)


def materialized(weights: Weights) -> dict[str, Tensor]:
    """All tensors in memory."""
    return {name: materialize(tensor) for name, tensor in weights.items()}


def serving_decoder(
    decoder: nn.Module,
    precision: str = "fp32",
    *,
    packed: bool = True,
    device: str = "cpu",
    moments: Moments | None = None,
) -> Decoder[Any]:
    """Convert a decoder in memory to the form that is served from an archive.

    packed  : pack the weights for the processor; see `pack`
    moments : as `stored_weights` takes them

    Raises ValueError as `for_serving` does.
    """
    _, served, weights = for_serving(cast("Trainable", decoder), precision, moments)
    served.load_state_dict(materialized(weights), assign=True)
    served = served.eval().requires_grad_(False).to(device)
    return captured(cast("Decoder[Any]", pack(served, shared=not packed)))
