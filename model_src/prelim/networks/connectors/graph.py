"""The graph connector of system 1: image tokens exchange messages along a ring in raster order."""

from torch import Tensor, nn


class GraphConnector(nn.Module):
    """Projects image tokens to the decoder's width and passes messages between neighbors on a ring.

    A step is x = hardtanh(x + message(mean(previous, x, next))): one shared linear layer for all steps, no
    norm. The last token is a neighbor of the first, as in the published code.
    """

    def __init__(self, in_width: int, out_width: int, steps: int = 3) -> None:
        super().__init__()
        self.proj = nn.Linear(in_width, out_width)
        self.message = nn.Linear(out_width, out_width)
        self.steps = steps

    def forward(self, image_features: Tensor) -> Tensor:
        """Connect encoder and decoder.

        image_features : Tensor, shape (batch, num_tokens, in_width)
        returns        : image_embeds, Tensor, shape (batch, num_tokens, out_width), values in [-1, 1]
        """
        return self.propagate(self.proj(image_features))

    def propagate(self, x: Tensor) -> Tensor:
        """Only the message steps, shape (batch, num_tokens, out_width) in and out."""
        for _ in range(self.steps):
            mean = (x.roll(-1, dims=1) + x + x.roll(1, dims=1)) / 3
            x = nn.functional.hardtanh(x + self.message(mean))
        return x
