"""What one system is made of."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from model_src.decoders import build_decoder


@dataclass(frozen=True)
class Architecture:
    """A system: how its three parts are built from model.yaml and how a published checkpoint names them.

    vision, connector : build the part from the section of that name in model.yaml
    checkpoint_keys   : (pattern, replacement) pairs of regular expressions, applied in turn, that lead from the keys
                        of the published checkpoint to ours
    """

    vision: Callable[..., nn.Module]
    connector: Callable[..., nn.Module]
    checkpoint_keys: tuple[tuple[str, str], ...]

    def build(self, parts: Mapping[str, Mapping[str, Any]]) -> "Network":
        """An untrained network with the dimensions of model.yaml's `vision`, `connector` and `decoder` sections."""
        return Network(
            self.vision(**parts["vision"]), self.connector(**parts["connector"]), build_decoder(parts["decoder"])
        )

    def our_key(self, published: str) -> str:
        """Our name for a key of the published checkpoint."""
        for pattern, replacement in self.checkpoint_keys:
            published = re.sub(pattern, replacement, published)
        return published


class Network(nn.Module):
    """The three parts of a system in one module, as training and export need them."""

    def __init__(self, vision: nn.Module, connector: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.vision = vision
        self.connector = connector
        self.decoder = decoder

    def forward(self, pixel_values: Tensor, token_ids: Tensor) -> Tensor:
        """Teacher forcing.

        pixel_values : Tensor, shape (batch, channels, size, size)
        token_ids    : Tensor of int64, shape (batch, length)
        returns      : logits, Tensor, shape (batch, length, vocab_size)
        """
        return self.decoder(self.connector(self.vision(pixel_values)), token_ids)
