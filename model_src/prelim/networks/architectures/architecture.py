"""Describes a system: its parts, and how its published checkpoint maps to them."""

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
    """The published checkpoint of a system.

    keys       : (pattern, replacement) pairs for `re.sub`, applied in order, that convert published keys to ours
    ignored    : pattern of an unneeded published key -> the reason
    defaults   : model.yaml of the published model, without the sections from `dimensions`
    dimensions : returns the sections `vision`, `connector` and `decoder` of model.yaml, and others that depend on
                 them, inferred from the shapes of the checkpoint under our keys
    layout     : converts the checkpoint's tensors to ours if they are transposed, split or to be joined
    tokenizer  : kind of the tokenizer, see export.tokenizers.read
    resized    : pattern of our key -> function that resizes a table to a given shape, as the original does when loading
    tied       : pattern of an ignored key -> our key with the same values, which the import checks
    vocabulary     : vocabulary size of the published decoder, including added tokens; a decoder with another
                     vocabulary has its own special tokens
    added_tokens   : special tokens that the original adds to its tokenizer
    decoder_config : names in the decoder's config.json that override `dimensions`
    lora_alpha : of the published adapter, used if there is no adapter_config.json
    origin     : name and location of the original, for the model card
    fixed      : faults of the original that are fixed here, for the model card
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
    fixed: tuple[str, ...] = ()

    def our_key(self, published: str) -> str:
        """Convert a published key to ours."""
        for pattern, replacement in self.keys:
            published = re.sub(pattern, replacement, published)
        return published

    def why_ignored(self, published: str) -> str | None:
        """The reason why a published key is ignored; None if it is used."""
        return next((reason for pattern, reason in self.ignored.items() if re.search(pattern, published)), None)


@dataclass(frozen=True)
class Architecture:
    """A system.

    vision, connector : build the part from its section of model.yaml
    published         : the published checkpoint
    insights          : methods of the connector that compute auxiliary outputs from image_features; responses to
                        requests with `return_attention` contain them under these names
    """

    vision: Callable[..., nn.Module]
    connector: Callable[..., nn.Module]
    published: Published
    insights: tuple[str, ...] = ()

    def build(self, parts: Mapping[str, Section], *, empty_decoder: bool = False) -> "Network":
        """Build an untrained network from the sections `vision`, `connector` and `decoder` of model.yaml.

        empty_decoder : build the decoder on the meta device, for weights from a file
        """
        vision, connector = self.vision(**parts["vision"]), self.connector(**parts["connector"])
        with torch.device("meta") if empty_decoder else nullcontext():
            decoder = build_decoder(parts["decoder"])
        return Network(vision, connector, decoder)


class Network(nn.Module):
    """The three parts of a system in one module, for training and export."""

    def __init__(self, vision: nn.Module, connector: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.vision = vision
        self.connector = connector
        self.decoder = decoder
