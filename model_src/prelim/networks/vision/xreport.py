"""The convolutional image encoder of system 4 (XREPORT, a Keras model)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad, relu

KERAS_BATCH_NORM_EPS = 1e-3


class ConvBlock(nn.Module):
    """Convolutions 2x2, each with batch norm and ReLU, then average pooling 2x2.

    Both use Keras's 'same' padding: for an even kernel the extra row and column are at the bottom and right, and
    pooling an odd side averages only the existing cells.
    """

    def __init__(self, in_channels: int, channels: int, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(in_channels if i == 0 else channels, channels, 2) for i in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels, KERAS_BATCH_NORM_EPS, 0.01) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, rows, columns) -> (batch, channels, rows / 2, columns / 2), rounded up."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = relu(norm(conv(pad(x, (0, 1, 0, 1)))))
        # Replicating the last row and column is equivalent, and exports as plain pooling.
        x = pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="replicate")
        return avg_pool2d(x, 2)


class ConvEncoder(nn.Module):
    """Blocks of convolutions, then dense layers on every cell; each cell is split into several image tokens.

    widths, depths : channels and number of convolutions of each block
    dense          : number of dense layers
    token_width    : of an image token; must divide `dense_width`
    dense_width    : of the dense layers; None: that of the last block
    channels       : of the image
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        dense: int,
        token_width: int,
        *,
        dense_width: int | None = None,
        channels: int = 1,
    ) -> None:
        super().__init__()
        width = dense_width or widths[-1]
        if width % token_width:
            raise ValueError(f"token_width is {token_width}; it must divide the width of the dense layers, {width}")
        self.blocks = nn.ModuleList(
            ConvBlock(before, width, depth)
            for (before, width), depth in zip(pairwise((channels, *widths)), depths, strict=True)
        )
        self.dense = nn.ModuleList(nn.Linear(widths[-1] if i == 0 else width, width) for i in range(dense))
        self.norm = nn.BatchNorm1d(width, KERAS_BATCH_NORM_EPS, 0.01)
        self.token_width = token_width

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        pixel_values : Tensor, shape (batch, channels, size, size), values in [0, 1]
        returns      : image_features, Tensor, shape (batch, num_tokens, token_width), cells in raster order, the
                       tokens of a cell adjacent
        """
        x = pixel_values
        for block in self.blocks:
            x = block(x)
        x = x.flatten(2)
        cells = x.transpose(1, 2)
        for layer in self.dense:
            cells = relu(layer(cells))
        cells = self.norm(cells.transpose(1, 2)).transpose(1, 2)
        return cells.reshape(cells.shape[0], -1, self.token_width)
