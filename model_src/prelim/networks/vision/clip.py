"""CLIP's vision transformer with the tokens of an inner layer, the encoder of LLaVA.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, in the
implementation of transformers; taking the tokens before the last layer is from Liu et al., "Visual Instruction Tuning",
NeurIPS 2023.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.activations import ACT2FN


class ClipTower(nn.Module):
    """A CLIP vision transformer up to the last layer that is used, without a final norm.

    layers      : number of layers
    activation  : of the feed-forward layers, a name of transformers
    features    : layers whose outputs, concatenated, are the image features; 0 is the input of the first
    class_token : the features have the class token, before the patches
    """

    def __init__(
        self,
        *,
        image_size: int = 336,
        patch_size: int = 14,
        width: int = 1024,
        layers: int = 23,
        heads: int = 16,
        feedforward: int = 4096,
        activation: str = "quick_gelu",
        norm_eps: float = 1e-5,
        features: Sequence[int] = (23,),
        class_token: bool = False,
    ) -> None:
        super().__init__()
        if not features or max(features) > layers or min(features) < 0:
            raise ValueError(f"features is {list(features)}; expected layers from 0 to {layers}")
        if activation not in ACT2FN:
            raise ValueError(f"activation is {activation!r}; known: {', '.join(sorted(ACT2FN))}")
        config = CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=feedforward,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            image_size=image_size,
            patch_size=patch_size,
            hidden_act=activation,
            layer_norm_eps=norm_eps,
            attn_implementation="sdpa",  # type: ignore[call-arg]
        )
        whole = CLIPVisionModel(config)
        # Indices of positions are computed, not stored, so they must exist even on the meta device.
        positions = torch.arange(whole.embeddings.num_positions, device="cpu")[None]
        whole.embeddings.register_buffer("position_ids", positions, persistent=False)
        self.embeddings, self.pre_norm, self.layers = whole.embeddings, whole.pre_layrnorm, whole.encoder.layers
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
        return torch.cat([states[i] for i in self._features], dim=-1)[:, self._first :]
