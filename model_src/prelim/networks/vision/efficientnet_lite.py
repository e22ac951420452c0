"""EfficientNet-Lite0 as a feature extractor.

Source: Tan and Le, "EfficientNet", ICML 2019, and Liu, "Higher accuracy on vision models with EfficientNet-Lite",
TensorFlow blog, 2020: without squeeze-and-excitation, with ReLU6; in the implementation of timm.
"""

import timm
from torch import Tensor, nn


class EfficientNetLite0(nn.Module):
    """The convolutional part of EfficientNet-Lite0; one token for each cell of its last feature map.

    drop_path : maximum fraction of residual branches dropped in training; grows linearly with depth
    """

    width = 1280

    def __init__(self, drop_path: float = 0.0) -> None:
        super().__init__()
        self.features = timm.create_model(
            "tf_efficientnet_lite0", pretrained=False, num_classes=0, global_pool="", drop_path_rate=drop_path
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        pixel_values : Tensor, shape (batch, 3, size, size), normalized as PreprocessConfig says
        returns      : image_features, Tensor, shape (batch, (size / 32) ** 2, 1280), cells in raster order
        """
        return self.features(pixel_values).flatten(2).transpose(1, 2)
