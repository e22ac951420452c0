"""DenseNet-121 as a feature extractor.

Source: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, in the implementation of torchvision.
"""

from torch import Tensor, nn
from torchvision.models import densenet121


class DenseNet121(nn.Module):
    """The convolutional part of DenseNet-121; one token for each cell of its last feature map.

    The features are those of the last batch norm, without the ReLU of torchvision's classifier.
    """

    width = 1024

    def __init__(self) -> None:
        super().__init__()
        self.features = densenet121(weights=None).features

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        pixel_values : Tensor, shape (batch, 3, size, size), normalized as PreprocessConfig says
        returns      : image_features, Tensor, shape (batch, (size / 32) ** 2, 1024), cells in raster order
        """
        return self.features(pixel_values).flatten(2).transpose(1, 2)
