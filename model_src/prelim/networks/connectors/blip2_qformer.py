"""The Q-Former of BLIP-2 with its output projection.

Source: Li et al., "BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language
Models", ICML 2023, in the implementation of transformers.
"""

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel


class Blip2QFormer(nn.Module):
    """Learned queries attend to the image and become image tokens for the decoder.

    The defaults are the published size: a post-norm BERT-base in which every second layer attends to the image.
    """

    def __init__(
        self,
        *,
        in_width: int,
        out_width: int,
        queries: int = 32,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        feedforward: int = 3072,
        cross_attention_every: int = 2,
    ) -> None:
        super().__init__()
        config = Blip2QFormerConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=feedforward,
            encoder_hidden_size=in_width,
            cross_attention_frequency=cross_attention_every,
        )
        self.query_tokens = nn.Parameter(torch.randn(1, queries, width) * config.initializer_range)
        self.qformer = Blip2QFormerModel(config)
        self.proj = nn.Linear(width, out_width)

    def forward(self, image_features: Tensor) -> Tensor:
        """Connect encoder and decoder.

        image_features : Tensor, shape (batch, num_tokens, in_width)
        returns        : image_embeds, Tensor, shape (batch, queries, out_width)
        """
        return self.proj(self.query(image_features))

    def query(self, image_features: Tensor) -> Tensor:
        """The queries' outputs before the projection, Tensor, shape (batch, queries, width)."""
        queries = self.query_tokens.expand(image_features.shape[0], -1, -1)
        return self.qformer(query_embeds=queries, encoder_hidden_states=image_features).last_hidden_state
