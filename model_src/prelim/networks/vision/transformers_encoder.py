"""A vision transformer of `transformers` with all tokens of its last layer: ViT, DeiT, DINOv2, CvT, Swin (V2), BLIP's.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; Touvron et al., "Training data-efficient image
transformers", ICML 2021; Oquab et al., "DINOv2", 2023; Wu et al., "CvT", ICCV 2021; Liu et al., "Swin Transformer",
ICCV 2021, and "Swin Transformer V2", CVPR 2022; Li et al., "BLIP", ICML 2022; in the implementation of transformers.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BlipVisionModel

MODEL_TYPES: Mapping[str, Mapping[str, Any]] = {
    **{kind: {"add_pooling_layer": False} for kind in ("vit", "deit", "swin", "swinv2", "cvt")},
    **{kind: {} for kind in ("dinov2", "blip_vision_model")},
}
"""Supported `model_type` -> arguments without which its network has parts that are not used."""


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
        unmasked = {"use_mask_token": False} if model_type == "dinov2" else {}
        config = AutoConfig.for_model(model_type, **settings, **unmasked)
        # Swin's window indices are computed, not stored, so they must exist even on the meta device.
        with torch.device("cpu"):
            self.body: Any = _build(config, **MODEL_TYPES[model_type])
        self.width: int = config.embed_dim[-1] if model_type == "cvt" else config.hidden_size

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        pixel_values : Tensor, shape (batch, channels, image_size, image_size), normalized as PreprocessConfig says
        returns      : image_features, Tensor, shape (batch, num_tokens, width)
        """
        features: Tensor = self.body(pixel_values=pixel_values).last_hidden_state
        # A CvT gives maps, shape (batch, width, rows, columns).
        return features if features.ndim == 3 else features.flatten(2).transpose(1, 2)


def _build(config: Any, **options: Any) -> Any:
    """The network of a configuration; a part of another model is not among those that AutoModel knows."""
    if config.model_type == "blip_vision_model":
        return BlipVisionModel(config)
    return AutoModel.from_config(config, **options)  # type: ignore[no-untyped-call]
