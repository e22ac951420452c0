"""The Q-Former of system 0 with its output projection.

Its layers are those of BLIP-2 (Li et al., ICML 2023, in the implementation of transformers). Unlike in BLIP-2, every
layer attends to the image and the queries are not normalized.
"""

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerEncoder


class BareQFormer(nn.Module):
    """Learned queries attend to the image and become image tokens; the defaults are the published size.

    out_width : of an image token; None: there is no projection, and it is `width`
    """

    def __init__(
        self,
        *,
        in_width: int = 512,
        out_width: int | None = 1024,
        queries: int = 32,
        width: int = 768,
        layers: int = 6,
        heads: int = 12,
        feedforward: int = 3072,
    ) -> None:
        super().__init__()
        config = Blip2QFormerConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=feedforward,
            encoder_hidden_size=in_width,
            cross_attention_frequency=1,
            attn_implementation="sdpa",  # type: ignore[call-arg]
        )
        self.query_tokens = nn.Parameter(torch.randn(1, queries, width) * config.initializer_range)
        self.encoder = Blip2QFormerEncoder(config)  # type: ignore[no-untyped-call]
        self.proj = nn.Identity() if out_width is None else nn.Linear(width, out_width)

    def forward(self, image_features: Tensor) -> Tensor:
        """Connect encoder and decoder.

        image_features : Tensor, shape (batch, in_width), or (batch, num_tokens, in_width)
        returns        : image_embeds, Tensor, shape (batch, queries, out_width)
        """
        return self.proj(self.query(image_features))

    def query(self, image_features: Tensor, image_mask: Tensor | None = None) -> Tensor:
        """The queries' outputs before the projection.

        image_features : Tensor, shape (batch, in_width), or (batch, num_tokens, in_width)
        image_mask     : Tensor of 0 and 1, shape (batch, num_tokens), 0 for padding; None uses all tokens
        returns        : Tensor, shape (batch, queries, width)
        """
        tokens = image_features.unsqueeze(1) if image_features.ndim == 2 else image_features
        queries = self.query_tokens.expand(tokens.shape[0], -1, -1)
        return self.encoder(
            queries,
            encoder_hidden_states=tokens,
            encoder_attention_mask=None if image_mask is None else image_mask.bool()[:, None, None, :],
            query_length=queries.shape[1],
        ).last_hidden_state
