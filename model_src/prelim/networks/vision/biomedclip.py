"""The image tower of BiomedCLIP: a vision transformer and a linear layer into the joint image-text space.

Source: Zhang et al., "BiomedCLIP: a multimodal biomedical foundation model pretrained from fifteen million scientific
image-text pairs", 2023; the transformer is timm's vit_base_patch16_224.
"""

from typing import Any

import timm
from torch import Tensor, nn


class BiomedCLIP(nn.Module):
    """Encodes each image as one unit vector; the defaults are the published size."""

    def __init__(
        self,
        *,
        size: int = 224,
        patch: int = 16,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        out_width: int = 512,
    ) -> None:
        super().__init__()
        self.trunk: Any = timm.create_model(
            "vit_base_patch16_224",
            pretrained=False,
            num_classes=0,
            img_size=size,
            patch_size=patch,
            embed_dim=width,
            depth=layers,
            num_heads=heads,
        )
        self.proj = nn.Linear(width, out_width, bias=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        pixel_values : Tensor, shape (batch, 3, size, size), normalized as PreprocessConfig says
        returns      : image_features, Tensor, shape (batch, out_width), unit vectors
        """
        return nn.functional.normalize(self.project(self.trunk.forward_features(pixel_values)), dim=1)

    def project(self, tokens: Tensor) -> Tensor:
        """Project the class token into the joint space: (batch, num_tokens, width) -> (batch, out_width)."""
        return self.proj(self.trunk.forward_head(tokens))
