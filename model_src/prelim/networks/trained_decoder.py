"""Decoders as they are trained and imported, and how each of them is served."""

from collections.abc import Mapping
from typing import Any, Protocol, cast

from torch import Tensor, nn

from prelim import decoders
from prelim.decoders import empty_decoder
from prelim.decoders.decoder import Decoder
from prelim.decoders.packed import pack
from prelim.decoders.precision import stored_weights
from prelim.decoders.weights_file import LazyTensor, made

KINDS = (*decoders.KINDS, "transformers")
"""Every `kind` of a model folder's section `decoder`; `transformers` is served as `causal_lm`."""


def build_decoder(section: Mapping[str, Any]) -> nn.Module:
    """Build the untrained decoder that the section `decoder` of a model folder's model.yaml describes.

    Raises ValueError for an unknown kind or model type, TypeError for an unknown or missing dimension.
    """
    kind = section.get("kind")
    if kind not in KINDS:
        raise ValueError(f"decoder kind is {kind!r}; known: {', '.join(KINDS)}")
    if kind == "transformers":
        # `transformers` takes seconds to import, and models without it need none of it.
        from prelim.networks.transformers_lm import TransformersLM

        return TransformersLM({name: value for name, value in section.items() if name != "kind"})
    return decoders.build_decoder(section)


class Trainable(Protocol):
    """A decoder that is trained and imported, and that knows how it is served."""

    def served(self) -> tuple[dict[str, Any], Mapping[str, Tensor | LazyTensor]]:
        """Section `decoder` of an archive's model.yaml, and the weights of the decoder that it describes.

        Raises ValueError where no such decoder computes the same.
        """


def for_serving(decoder: Trainable, precision: str) -> tuple[dict[str, Any], nn.Module, dict[str, Tensor | LazyTensor]]:
    """Return what an archive holds of a decoder.

    returns : section `decoder` of model.yaml, the served decoder without weights, and its stored weights

    Raises ValueError for a decoder that cannot be served, or not in this precision.
    """
    section, weights = decoder.served()
    empty = empty_decoder(section, precision)
    return section, empty, stored_weights(empty, weights, precision)


def serving_decoder(
    decoder: nn.Module, precision: str = "fp32", *, packed: bool = True, device: str = "cpu"
) -> Decoder[Any]:
    """Return a decoder in memory as it would be served from an archive.

    packed : its weights are packed for the processor, else they stay as they are stored; see `pack`

    Raises ValueError as `for_serving` does.
    """
    _, served, weights = for_serving(cast("Trainable", decoder), precision)
    served.load_state_dict({name: made(tensor) for name, tensor in weights.items()}, assign=True)
    served = served.eval().requires_grad_(False).to(device)
    return cast("Decoder[Any]", pack(served, shared=not packed))
