"""The connector of Gemma 3: an RMS norm and a matrix.

Source: Gemma Team, "Gemma 3 Technical Report", 2025.
"""

from torch import Tensor, nn


class NormedLinear(nn.Module):
    """Normalizes every image token and projects it."""

    def __init__(self, in_width: int, out_width: int, norm_eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(in_width, eps=norm_eps)
        self.projection = nn.Linear(in_width, out_width, bias=False)

    def forward(self, image_features: Tensor) -> Tensor:
        """Connect encoder and decoder.

        image_features : Tensor, shape (batch, num_tokens, in_width)
        returns        : image_embeds, Tensor, shape (batch, num_tokens, out_width)
        """
        y: Tensor = self.projection(self.norm(image_features))
        return y
