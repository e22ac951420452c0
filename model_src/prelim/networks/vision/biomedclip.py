"""The image tower of BiomedCLIP: a vision transformer and a linear layer into the space that image and text share.

Source: Zhang et al., "BiomedCLIP: a multimodal biomedical foundation model pretrained from fifteen million scientific
image-text pairs", 2023; the transformer is timm's vit_base_patch16_224.
"""

from typing import Any

import timm
from torch import Tensor, nn


class BiomedCLIP(nn.Module):
    """One feature of length 1 for each image; the defaults are the published size."""

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

        pixel_values : Tensor, shape (batch, 3, size, size), normalised as PreprocessConfig says
        returns      : image_features, Tensor, shape (batch, out_width), each of length 1
        """
        return nn.functional.normalize(self.project(self.trunk.forward_features(pixel_values)), dim=1)

    def project(self, tokens: Tensor) -> Tensor:
        """The class token in the shared space, shape (batch, out_width), for tokens (batch, num_tokens, width)."""
        return self.proj(self.trunk.forward_head(tokens))
