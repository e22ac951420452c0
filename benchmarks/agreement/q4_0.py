"""Weights of four bits as llama.cpp rounds them, to compare `int4_dynamic` with: simulated, computed in float32.

Source: ggml, `quantize_row_q4_0_ref`: groups of 32 neighboring weights; the one that is largest by absolute value
becomes -8, the rest are rounded to the nearest of -8 to 7; the scale has 16 bits. So a weight takes 4.5 bits.
"""

from typing import Any, cast

from torch import Tensor, nn

from prelim.decoders.decoder import Decoder
from prelim.decoders.packed import pack
from prelim.decoders.token_embedding import TokenEmbedding
from prelim.networks.trained_decoder import Trainable, for_serving, materialized

NAME = "q4_0"
"""Among the precisions of this benchmark."""

_GROUP = 32


def rounded(weight: Tensor) -> Tensor:
    """The numbers that stand for a matrix, shape (outputs, inputs), inputs a multiple of 32, in float32."""
    groups = weight.float().view(len(weight), -1, _GROUP)
    scale = groups.gather(-1, groups.abs().argmax(-1, keepdim=True)) / -8
    integers = (groups / scale.where(scale != 0, 1) + 8.5).floor().clamp(0, 15) - 8
    return (integers * scale.half().float()).flatten(-2)


def q4_0_decoder(decoder: nn.Module) -> Decoder[Any]:
    """The served decoder with all its matrices rounded so, the table by which tokens are scored too.

    What is multiplied with them stays as it is, where llama.cpp rounds it to 8 bits.
    """
    _, served, weights = for_serving(cast("Trainable", decoder), "fp32")
    found = materialized(weights)
    for name, layer in served.named_modules():
        if isinstance(layer, nn.Linear | TokenEmbedding):
            found[f"{name}.weight"] = rounded(found[f"{name}.weight"])
    served.load_state_dict(found, assign=True)
    return cast("Decoder[Any]", pack(served.eval().requires_grad_(False)))
