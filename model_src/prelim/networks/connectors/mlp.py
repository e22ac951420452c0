"""The connector of LLaVA's family: linear layers on every image token, two in LLaVA 1.5, four in MAIRA-2.

Source: Liu et al., "Improved Baselines with Visual Instruction Tuning", CVPR 2024; Bannur et al., "MAIRA-2: Grounded
Radiology Report Generation", 2024.
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
    """Linear layers with an activation between two of them; one image token for each token of the encoder."""

    def __init__(
        self, in_width: int, out_width: int, *, layers: int = 2, activation: str = "gelu", bias: bool = True
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"connector.activation is {activation!r}; known: {', '.join(ACTIVATIONS)}")
        if layers < 1:
            raise ValueError(f"connector.layers is {layers}; allowed: 1 or more")
        # Their names are keys of the files of archives.
        self._names = [f"linear_{i + 1}" for i in range(layers)]
        for i, name in enumerate(self._names):
            setattr(self, name, nn.Linear(out_width if i else in_width, out_width, bias=bias))
        self._activation = ACTIVATIONS[activation]

    def forward(self, image_features: Tensor) -> Tensor:
        """Connect encoder and decoder.

        image_features : Tensor, shape (batch, num_tokens, in_width)
        returns        : image_embeds, Tensor, shape (batch, num_tokens, out_width)
        """
        x: Tensor = getattr(self, self._names[0])(image_features)
        for name in self._names[1:]:
            x = getattr(self, name)(self._activation(x))
        return x
