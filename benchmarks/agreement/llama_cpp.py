"""Weights as llama.cpp rounds them, to compare our precisions of few bits with: simulated, computed in float32.

Both formats have a scale of 16 bits for 32 neighboring weights, so that a weight takes 8.5 or 4.5 bits. What is
multiplied with them stays as it is, where llama.cpp rounds it to 8 bits.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from prelim.decoders.decoder import Decoder
from prelim.decoders.packed import pack
from prelim.decoders.token_embedding import TokenEmbedding
from prelim.networks.trained_decoder import Trainable, for_serving, materialized

_GROUP = 32


def q8_0(weight: Tensor) -> Tensor:
    """The numbers that stand for a matrix, shape (outputs, inputs), inputs a multiple of 32, in float32.

    The weight that is largest by absolute value becomes 127 or -127, the rest the nearest integers, halves away from
    zero. Source: ggml, `quantize_row_q8_0_ref`.
    """
    groups = _groups(weight)
    scale = groups.abs().amax(-1, keepdim=True) / 127
    units = groups / scale.where(scale != 0, 1)
    return _restored(units.sign() * (units.abs() + 0.5).floor(), scale)


def q4_0(weight: Tensor) -> Tensor:
    """The same with four bits: the largest becomes -8, the rest are the nearest of -8 to 7.

    Source: ggml, `quantize_row_q4_0_ref`.
    """
    groups = _groups(weight)
    scale = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)) / -8
    return _restored((groups / scale.where(scale != 0, 1) + 8.5).floor().clamp(0, 15) - 8, scale)


def _groups(weight: Tensor) -> Tensor:
    return weight.float().view(len(weight), -1, _GROUP)


def _restored(integers: Tensor, scale: Tensor) -> Tensor:
    return (integers * scale.half().float()).flatten(-2)


FORMATS: Mapping[str, Callable[[Tensor], Tensor]] = {"q8_0": q8_0, "q4_0": q4_0}
"""By their names among the precisions of this benchmark."""


def rounded_decoder(decoder: nn.Module, name: str) -> Decoder[Any]:
    """The served decoder with all its matrices rounded so, the table by which tokens are scored too.

    name : a key of FORMATS
    """
    _, served, weights = for_serving(cast("Trainable", decoder), "fp32")
    found = materialized(weights)
    for path, layer in served.named_modules():
        if isinstance(layer, nn.Linear | TokenEmbedding):
            found[f"{path}.weight"] = FORMATS[name](found[f"{path}.weight"])
    served.load_state_dict(found, assign=True)
    return cast("Decoder[Any]", pack(served.eval().requires_grad_(False)))
