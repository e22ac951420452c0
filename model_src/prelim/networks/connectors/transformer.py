"""The connector of system 4: transformer encoders over the image tokens."""

from torch import Tensor, nn
from torch.nn.functional import dropout, relu

from prelim.decoders.attention import EVERYWHERE, Attention


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual and a post-norm; both dense layers have a ReLU.

    Source: Vaswani et al., "Attention Is All You Need", 2017, with the second ReLU of XREPORT.
    """

    def __init__(self, width: int, heads: int, head_width: int, norm_eps: float, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, head_width)
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, norm_eps)
        self.norm2 = nn.LayerNorm(width, norm_eps)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """One layer, shape (batch, num_tokens, width) in and out."""
        x = self.norm1(x + self.attention.attend(*self.attention.query_key_value(x), EVERYWHERE))
        y = relu(self.linear2(relu(self.linear1(x))))
        return self.norm2(x + dropout(y, self.dropout, self.training))


class TransformerConnector(nn.Module):
    """Self-attention between image tokens, which have the decoder's width.

    width      : of an image token
    head_width : of one attention head, independent of width / heads
    """

    def __init__(
        self, width: int, layers: int, *, heads: int, head_width: int, norm_eps: float = 1e-4, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, head_width, norm_eps, dropout) for _ in range(layers))

    def forward(self, image_features: Tensor) -> Tensor:
        """Connect encoder and decoder.

        image_features : Tensor, shape (batch, num_tokens, width)
        returns        : image_embeds, Tensor, shape (batch, num_tokens, width)
        """
        x = image_features
        for layer in self.layers:
            x = layer(x)
        return x
