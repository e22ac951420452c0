"""EVA-CLIP's vision transformer, the encoder of BLIP-2, MiniGPT-4 and XrayGPT.

Source: Fang et al., "EVA: Exploring the Limits of Masked Visual Representation Learning at Scale", CVPR 2023, in the
implementation of timm; using all tokens of the penultimate block is from Li et al., "BLIP-2", ICML 2023.
"""

import math
from typing import Any

import torch
from timm.models.eva import Eva
from torch import Tensor, nn


class EvaClip(nn.Module):
    """A vision transformer without a final norm or a head, followed by BLIP-2's layer norm.

    The defaults are ViT-g/14 as published: 40 blocks, of which the last is not used. Queries and values have a bias,
    keys have none.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch_size: int = 14,
        width: int = 1408,
        layers: int = 39,
        heads: int = 16,
        feedforward: int = 6144,
    ) -> None:
        super().__init__()
        self.width = width
        self.vit = Eva(
            img_size=image_size,
            patch_size=patch_size,
            num_classes=0,
            global_pool="",
            embed_dim=width,
            depth=layers,
            num_heads=heads,
            # timm truncates width * ratio to an integer; adding a half avoids rounding errors.
            mlp_ratio=(feedforward + 0.5) / width,
            use_post_transformer_norm=False,
        )
        for block in self.vit.blocks:
            # The zero bias of the keys is not stored, so it must exist even on the meta device.
            attention: Any = block.attn
            attention.register_buffer("k_bias", torch.zeros(width, device="cpu"), persistent=False)
        self.ln_vision = nn.LayerNorm(width)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        pixel_values : Tensor, shape (batch, 3, image_size, image_size), normalized as PreprocessConfig says
        returns      : image_features, Tensor, shape (batch, 1 + (image_size / patch_size) ** 2, width), the class
                       token first, then patches in raster order
        """
        return self.ln_vision(self.vit.forward_features(pixel_values))


def resize_positions(table: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Resize learned positions to another number of patches, as BLIP-2 does when loading EVA-CLIP.

    table : Tensor, shape (1, 1 + side ** 2, width), the class token first
    shape : (1, 1 + new_side ** 2, width)
    """
    place, patches = table[:, :1].float(), table[:, 1:].float()
    side, new_side = math.isqrt(patches.shape[1]), math.isqrt(shape[1] - 1)
    grid = patches.transpose(1, 2).reshape(len(table), -1, side, side)
    grid = nn.functional.interpolate(grid, (new_side, new_side), mode="bicubic", align_corners=False)
    return torch.cat([place, grid.flatten(2).transpose(1, 2)], dim=1).to(table.dtype)
