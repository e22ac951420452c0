"""The connector of LLaVA 1.5: two linear layers on every image token.

Source: Liu et al., "Improved Baselines with Visual Instruction Tuning", CVPR 2024.
"""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import gelu, relu, silu

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_pytorch_tanh": partial(gelu, approximate="tanh"),
    "relu": relu,
    "silu": silu,
}
"""Names of transformers."""


class MLPConnector(nn.Module):
    """Linear, activation, linear; one image token for each token of the encoder."""

    def __init__(self, in_width: int, out_width: int, *, activation: str = "gelu", bias: bool = True) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"connector.activation is {activation!r}; known: {', '.join(ACTIVATIONS)}")
        self.linear_1 = nn.Linear(in_width, out_width, bias=bias)
        self.linear_2 = nn.Linear(out_width, out_width, bias=bias)
        self._activation = ACTIVATIONS[activation]

    def forward(self, image_features: Tensor) -> Tensor:
        """Connect encoder and decoder.

        image_features : Tensor, shape (batch, num_tokens, in_width)
        returns        : image_embeds, Tensor, shape (batch, num_tokens, out_width)
        """
        return self.linear_2(self._activation(self.linear_1(image_features)))
