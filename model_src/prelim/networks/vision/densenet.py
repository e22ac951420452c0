"""DenseNet-121 as a feature extractor.

Source: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, in the implementation of torchvision.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models import DenseNet

BLOCKS = (6, 12, 24, 16)
"""Layers of DenseNet-121's dense blocks."""

WIDTH = 1024
"""Of its last feature map."""


class DenseNet121(nn.Module):
    """The convolutional part of DenseNet-121; one token for each cell of its last feature map.

    The features are those of the last batch norm, without the ReLU of torchvision's classifier.

    blocks : layers of each dense block; others than the published ones make another network of the same kind
    """

    def __init__(self, blocks: Sequence[int] = BLOCKS) -> None:
        super().__init__()
        self.features = DenseNet(growth_rate=32, block_config=tuple(blocks), num_init_features=64).features

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        pixel_values : Tensor, shape (batch, 3, size, size), normalized as PreprocessConfig says
        returns      : image_features, Tensor, shape (batch, (size / 32) ** 2, width), cells in raster order; width is
                       WIDTH with the published blocks
        """
        return self.features(pixel_values).flatten(2).transpose(1, 2)
