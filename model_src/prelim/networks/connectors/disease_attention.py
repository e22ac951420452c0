"""The connector of system 2: one image token per disease, pooled with an attention map shared by all images."""

import math

import torch
from torch import Tensor, nn


class DiseaseAttention(nn.Module):
    """Pools the image tokens once for each disease and projects the pooled features to the decoder's width.

    The attention maps are parameters of the model: they do not depend on the image. Besides the decoder's input, the
    connector returns the maps and the scores of a classifier that was trained with the encoder.

    in_width, out_width : of the encoder and of the decoder
    num_tokens          : cells of the encoder's feature map, a square number
    diseases            : number of maps
    """

    def __init__(self, in_width: int, out_width: int, num_tokens: int = 49, diseases: int = 14) -> None:
        super().__init__()
        self.attention_weights = nn.Parameter(torch.zeros(diseases, num_tokens))
        self.proj = nn.Linear(in_width, out_width)
        self.classifier = nn.Linear(diseases * in_width, diseases)

    def forward(self, image_features: Tensor) -> Tensor:
        """Connect encoder and decoder.

        image_features : Tensor, shape (batch, num_tokens, in_width)
        returns        : image_embeds, Tensor, shape (batch, diseases, out_width)
        """
        return self.proj(self.attend(image_features))

    def attend(self, image_features: Tensor) -> Tensor:
        """The pooled features of each disease, shape (batch, diseases, in_width)."""
        return self.attention_weights.softmax(dim=1) @ image_features

    def disease_logits(self, image_features: Tensor) -> Tensor:
        """Scores of the classifier, shape (batch, diseases); their sigmoid is a probability."""
        return self.classifier(self.attend(image_features).flatten(1))

    def attention(self, image_features: Tensor) -> Tensor:
        """The attention map of each disease, the same for every image of the batch.

        returns : Tensor, shape (batch, diseases, rows, columns); each map is positive and sums to 1
        """
        diseases, num_tokens = self.attention_weights.shape
        side = math.isqrt(num_tokens)
        maps = self.attention_weights.softmax(dim=1).reshape(1, diseases, side, side)
        return maps.expand(image_features.shape[0], -1, -1, -1)
