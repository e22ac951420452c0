"""MedCLIP's two vision towers.

XrayGPT's README names MedCLIP as its encoder, but its public code and checkpoints use EVA-CLIP, and no public
checkpoint connects MedCLIP to a Q-Former. The towers are for users who train or have such a connector.

Source: Wang et al., "MedCLIP: Contrastive Learning from Unpaired Medical Images and Text", EMNLP 2022; Liu et al.,
"Swin Transformer", ICCV 2021, in the implementation of transformers; He et al., "Deep Residual Learning", CVPR 2016,
in that of torchvision.
"""

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from transformers import SwinConfig, SwinModel

EMBEDDING = 512
"""Width of MedCLIP's joint image-text space."""


class MedClipSwin(nn.Module):
    """MedCLIP's Swin-T: tokens for a connector, and the embedding for comparison with texts."""

    width = 768

    def __init__(self) -> None:
        super().__init__()
        # Swin's window indices are computed, not stored, so they must exist even on the meta device.
        with torch.device("cpu"):
            self.model = SwinModel(SwinConfig(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24]))
        self.projection_head = nn.Linear(self.width, EMBEDDING, bias=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        pixel_values : Tensor, shape (batch, 3 or 1, 224, 224), normalized as PreprocessConfig says; one channel is
                       repeated
        returns      : image_features, Tensor, shape (batch, 49, 768), cells in raster order
        """
        return self.model(pixel_values.expand(-1, 3, -1, -1)).last_hidden_state

    def embed(self, pixel_values: Tensor) -> Tensor:
        """MedCLIP's embedding of images, not normalized, Tensor, shape (batch, 512)."""
        return self.projection_head(self.forward(pixel_values).mean(1))


class MedClipResNet(nn.Module):
    """MedCLIP's ResNet-50: tokens for a connector, and the embedding for comparison with texts."""

    width = 2048

    def __init__(self) -> None:
        super().__init__()
        self.model = resnet50(weights=None)
        self.model.fc = nn.Linear(self.width, EMBEDDING, bias=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode images.

        pixel_values : Tensor, shape (batch, 3 or 1, 224, 224), normalized as PreprocessConfig says; one channel is
                       repeated
        returns      : image_features, Tensor, shape (batch, 49, 2048), cells in raster order
        """
        net = self.model
        x = net.maxpool(net.relu(net.bn1(net.conv1(pixel_values.expand(-1, 3, -1, -1)))))
        return net.layer4(net.layer3(net.layer2(net.layer1(x)))).flatten(2).transpose(1, 2)

    def embed(self, pixel_values: Tensor) -> Tensor:
        """MedCLIP's embedding of images, not normalized, Tensor, shape (batch, 512)."""
        return self.model.fc(self.forward(pixel_values).mean(1))
