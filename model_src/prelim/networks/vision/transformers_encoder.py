"""A vision transformer of `transformers`, with all tokens of its last layer: ViT, DeiT, Swin or Swin V2.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; Touvron et al., "Training data-efficient image
transformers", ICML 2021; Liu et al., "Swin Transformer", ICCV 2021, and "Swin Transformer V2", CVPR 2022; in the
implementation of transformers.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

MODEL_TYPES = ("vit", "deit", "swin", "swinv2")


class TransformersEncoder(nn.Module):
    """An encoder without its pooling layer.

    model_type : one of MODEL_TYPES
    settings   : values of that model's configuration

    Raises ValueError for another model type, and for settings that do not fit together.
    """

    def __init__(self, model_type: str = "vit", **settings: Any) -> None:
        super().__init__()
        if model_type not in MODEL_TYPES:
            raise ValueError(f"model_type is {model_type!r}; known: {', '.join(MODEL_TYPES)}")
        config = AutoConfig.for_model(model_type, **settings)
        # Swin's window indices are computed, not stored, so they must exist even on the meta device.
        with torch.device("cpu"):
            self.body: Any = AutoModel.from_config(config, add_pooling_layer=False)  # type: ignore[no-untyped-call]
        self.width: int = config.hidden_size

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        pixel_values : Tensor, shape (batch, channels, image_size, image_size), normalized as PreprocessConfig says
        returns      : image_features, Tensor, shape (batch, num_tokens, width)
        """
        features: Tensor = self.body(pixel_values=pixel_values).last_hidden_state
        return features
