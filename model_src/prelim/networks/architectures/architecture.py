"""What one system is made of."""

import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prelim.networks.trained_decoder import build_decoder

Shapes = Mapping[str, tuple[int, ...]]
Section = Mapping[str, Any]

# Section `input.accepts` of systems that were trained on chest radiographs, of whatever view.
CHEST_RADIOGRAPHS = {
    "body_parts": ["CHEST"],
    "sop_classes": [
        "ComputedRadiographyImageStorage",
        "DigitalXRayImageStorageForPresentation",
        "SecondaryCaptureImageStorage",
        "MultiFrameGrayscaleByteSecondaryCaptureImageStorage",
        "MultiFrameGrayscaleWordSecondaryCaptureImageStorage",
    ],
}


@dataclass(frozen=True)
class Published:
    """How the original code of a system names and stores what we need.

    keys       : (pattern, replacement) pairs of regular expressions, applied in turn, that lead from a key of the
                 published checkpoint to ours; a replacement as in `re.sub`
    ignored    : pattern of a published key that is not needed -> the reason why
    defaults   : model.yaml of the published model, without what `dimensions` finds
    dimensions : the sections `vision`, `connector` and `decoder` of model.yaml, and others that follow from them,
                 found from the shapes of the checkpoint under our keys
    layout     : makes our tensors of the checkpoint's, where they are transposed, split or under keys that ours join
    tokenizer  : what the system's tokenizer is made from, as export.import_checkpoint knows it
    resized    : pattern of our key -> what makes a table of the wanted shape from one of another, where the original
                 does so when it loads
    tied       : pattern of an ignored key -> our key whose values it repeats, which the import checks
    vocabulary     : how many words the published decoder has, the added ones included; one of other words has its own
                     special tokens
    added_tokens   : special tokens that the original adds after the tokenizer's own
    decoder_config : values of a config.json beside the decoder's weights that count more than what `dimensions` says
    lora_alpha : of the published adapter, where no adapter_config.json tells
    origin     : what the original is and where it is found, for the model card
    mended     : faults of the original that are mended here, for the model card
    """

    keys: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
    defaults: Mapping[str, Any]
    dimensions: Callable[[Shapes], Mapping[str, Section]]
    tokenizer: str
    origin: str
    ignored: Mapping[str, str] = field(default_factory=dict)
    layout: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    resized: Mapping[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    vocabulary: int | None = None
    added_tokens: tuple[str, ...] = ()
    decoder_config: tuple[str, ...] = ()
    lora_alpha: float | None = None
    mended: tuple[str, ...] = ()

    def our_key(self, published: str) -> str:
        """Our name for a key of the published checkpoint."""
        for pattern, replacement in self.keys:
            published = re.sub(pattern, replacement, published)
        return published

    def why_ignored(self, published: str) -> str | None:
        """The reason why a key of the published checkpoint is not needed; None if it is."""
        return next((reason for pattern, reason in self.ignored.items() if re.search(pattern, published)), None)


@dataclass(frozen=True)
class Architecture:
    """A system.

    vision, connector : build the part from the section of that name in model.yaml
    published         : the original's checkpoint
    insights          : methods of the connector that say of image_features what is worth knowing beside the report;
                        the server answers them under these names to requests with `return_attention`
    """

    vision: Callable[..., nn.Module]
    connector: Callable[..., nn.Module]
    published: Published
    insights: tuple[str, ...] = ()

    def build(self, parts: Mapping[str, Section], *, empty_decoder: bool = False) -> "Network":
        """An untrained network with the dimensions of model.yaml's `vision`, `connector` and `decoder` sections.

        empty_decoder : nothing is allocated for the decoder, whose weights come from a file
        """
        vision, connector = self.vision(**parts["vision"]), self.connector(**parts["connector"])
        with torch.device("meta") if empty_decoder else nullcontext():
            decoder = build_decoder(parts["decoder"])
        return Network(vision, connector, decoder)


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
