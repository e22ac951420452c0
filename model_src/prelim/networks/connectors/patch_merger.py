"""The connector of Qwen2.5-VL: the patches of an image token become one embedding.

Source: Wang et al., "Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution", 2024,
section 2.1.
"""

from torch import Tensor, nn
from torch.nn.functional import gelu


class PatchMerger(nn.Module):
    """Normalizes every patch, and projects the patches of each image token together.

    in_width : of all patches of a token together
    patches  : of a token
    """

    def __init__(self, in_width: int, out_width: int, patches: int = 4, norm_eps: float = 1e-6) -> None:
        super().__init__()
        self.patches = patches
        self.norm = nn.RMSNorm(in_width // patches, eps=norm_eps)
        self.linear_1 = nn.Linear(in_width, in_width)
        self.linear_2 = nn.Linear(in_width, out_width)

    def forward(self, image_features: Tensor) -> Tensor:
        """Connect encoder and decoder.

        image_features : Tensor, shape (batch, rows, columns, in_width)
        returns        : image_embeds, Tensor, shape (batch, rows, columns, out_width)
        """
        patches = image_features.reshape(*image_features.shape[:-1], self.patches, -1)
        normed = self.norm(patches).flatten(-2)
        y: Tensor = self.linear_2(gelu(self.linear_1(normed)))
        return y
