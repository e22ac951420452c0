"""MobileNetV3-small as a feature extractor.

Source: Howard et al., "Searching for MobileNetV3", ICCV 2019, in the implementation of torchvision.
"""

from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small


class MobileNetV3Small(nn.Module):
    """The convolutional part of MobileNetV3-small; one token for each cell of its last feature map."""

    width = 576

    def __init__(self) -> None:
        super().__init__()
        self.features = mobilenet_v3_small(weights=None).features

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        pixel_values : Tensor, shape (batch, 3, size, size), normalized as PreprocessConfig says
        returns      : image_features, Tensor, shape (batch, (size / 32) ** 2, 576), cells in raster order
        """
        return self.features(pixel_values).flatten(2).transpose(1, 2)
