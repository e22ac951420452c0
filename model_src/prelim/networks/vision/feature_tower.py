"""A vision transformer with the tokens of inner layers, the encoder of LLaVA's family: CLIP, SigLIP or DINOv2.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021; Zhai et al.,
"Sigmoid Loss for Language Image Pre-Training", ICCV 2023; Oquab et al., "DINOv2", TMLR 2024; in the implementation of
transformers. Taking the tokens before the last layer is from Liu et al., "Visual Instruction Tuning", NeurIPS 2023.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, CLIPVisionModel, Dinov2Model, SiglipVisionModel
from transformers.activations import ACT2FN

from prelim.networks.vision.attention_by_head import choose_attention

CLIP, SIGLIP, DINOV2 = "clip_vision_model", "siglip_vision_model", "dinov2"
_CLASSES: Mapping[str, Callable[..., Any]] = {CLIP: CLIPVisionModel, SIGLIP: SiglipVisionModel, DINOV2: Dinov2Model}
MODEL_TYPES = tuple(_CLASSES)


class FeatureTower(nn.Module):
    """A vision transformer up to the last layer that is used.

    model_type  : one of MODEL_TYPES
    layers      : number of layers
    activation  : of the feed-forward layers, a name of transformers
    qkv_bias    : of DINOv2: queries, keys and values have a bias, as those of the others do
    features    : layers whose outputs, concatenated, are the image features; 0 is the input of the first
    class_token : the features have the first token, which is the class token of CLIP and DINOv2, and a patch of SigLIP
    final_norm  : the features are normalized by the norm that follows the last layer

    Raises ValueError for another model type, and for dimensions that do not fit together.
    """

    def __init__(
        self,
        *,
        model_type: str = CLIP,
        image_size: int = 336,
        patch_size: int = 14,
        width: int = 1024,
        layers: int = 23,
        heads: int = 16,
        feedforward: int = 4096,
        activation: str = "quick_gelu",
        norm_eps: float = 1e-5,
        qkv_bias: bool = True,
        features: Sequence[int] = (23,),
        class_token: bool = False,
        final_norm: bool = False,
    ) -> None:
        super().__init__()
        if model_type not in _CLASSES:
            raise ValueError(f"model_type is {model_type!r}; known: {', '.join(MODEL_TYPES)}")
        if not features or max(features) > layers or min(features) < 0:
            raise ValueError(f"features is {list(features)}; expected layers from 0 to {layers}")
        if activation not in ACT2FN:
            raise ValueError(f"activation is {activation!r}; known: {', '.join(sorted(ACT2FN))}")
        if model_type == DINOV2 and feedforward % width:
            raise ValueError(f"feedforward is {feedforward}; it must be a multiple of the width {width}")
        own: dict[str, Any] = {
            CLIP: {"intermediate_size": feedforward},
            SIGLIP: {"intermediate_size": feedforward, "vision_use_head": False},
            DINOV2: {"mlp_ratio": feedforward // width, "qkv_bias": qkv_bias, "use_mask_token": False},
        }
        config = AutoConfig.for_model(
            model_type,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            image_size=image_size,
            patch_size=patch_size,
            hidden_act=activation,
            layer_norm_eps=norm_eps,
            attn_implementation=choose_attention((image_size // patch_size) ** 2, heads),
            **own[model_type],
        )
        whole = _CLASSES[model_type](config)
        self.embeddings = whole.embeddings
        if hasattr(self.embeddings, "position_ids"):
            # Indices of positions are computed, not stored, so they must exist even on the meta device.
            positions = torch.arange(self.embeddings.num_positions, device="cpu")[None]
            self.embeddings.register_buffer("position_ids", positions, persistent=False)
        self.pre_norm = whole.pre_layrnorm if model_type == CLIP else nn.Identity()
        self.layers = whole.encoder.layer if model_type == DINOV2 else whole.encoder.layers
        last_norm = whole.layernorm if model_type == DINOV2 else whole.post_layernorm
        self.final_norm = last_norm if final_norm else nn.Identity()
        self.width = width * len(features)
        self._features = tuple(features)
        self._first = 0 if class_token else 1

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        pixel_values : Tensor, shape (batch, 3, image_size, image_size), normalized as PreprocessConfig says
        returns      : image_features, Tensor, shape (batch, num_tokens, width), patches in raster order
        """
        states = [self.pre_norm(self.embeddings(pixel_values))]
        for layer in self.layers:
            states.append(layer(states[-1], None))
        features = [self.final_norm(states[i])[:, self._first :] for i in self._features]
        return torch.cat(features, dim=-1)
