"""Describes a system: its parts, and how its published checkpoint maps to them."""

import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prelim.networks.architectures.facts import Facts
from prelim.networks.trained_decoder import build_decoder

Shapes = Mapping[str, tuple[int, ...]]
Section = Mapping[str, Any]
Renames = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

PARTS = ("vision.", "connector.", "decoder.")
"""What our keys begin with."""

PEFT_KEYS: Renames = (
    (r"(^|\.)base_model\.model\.", r"\1"),
    (r"\.base_layer\.", "."),
    (r"\.modules_to_save\.[^.]+\.", "."),
    (r"\.(lora_[AB])\.[^.]+\.weight$", r".\1.weight"),
    (r"\.lora_magnitude_vector(\.[^.]+)*$", ".lora_magnitude_vector"),
)
"""Keys of layers that `peft` has wrapped -> keys as if it had not; adapters lose their name."""

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
                 them, inferred from the shapes of the checkpoint under our keys, and from `Facts`
    structure  : properties of the network that neither shapes nor options show, for the model card
    model_types : allowed `model_type` of a config.json
    base_types  : `model_type` of a language model that adapters were trained for, which the import asks for: its
                 config.json is not read, because that of the whole has its settings
    whole_config : config.json describes the whole system, not only its decoder
    size       : sections `vision`, `connector` and `decoder` in the published size, and others that depend on them and
                 are not in `defaults`, to list the keys of a missing part and for `export.plan`
    theirs     : (pattern, replacement) pairs that convert our keys to published ones, for messages
    layout     : converts the checkpoint's tensors to ours if they are transposed, split or to be joined
    tokenizer  : kind of the tokenizer, see export.tokenizers.read
    resized    : pattern of our key -> function that resizes a table to a given shape, as the original does when loading
    ignored_in : returns further ignored keys, like `ignored`, that depend on the shapes of the checkpoint under its own
                 keys, and on its config.json
    tied       : pattern of an ignored key -> our key with the same values, which the import checks
    ends_by    : name in config.json of the token that ends a report
    own_code   : classes that a folder's auto_map names and this system computes instead, as module.Class
    vocabulary     : vocabulary size of the published decoder, including added tokens; a decoder with another
                     vocabulary has its own special tokens
    added_tokens   : special tokens that the original adds to its tokenizer
    image_words    : what a chat template writes for an image, and the text that stands in a prompt for it, with {image}
                     where the image's own tokens go; None: the template writes the image's token itself
    lora_alpha : of the published adapter, used if there is no adapter_config.json
    origin     : name and location of the original, for the model card
    fixed      : faults of the original that are fixed here, for the model card
    """

    keys: Renames
    defaults: Mapping[str, Any]
    dimensions: Callable[[Shapes, Facts], Mapping[str, Section]]
    tokenizer: str
    origin: str
    size: Mapping[str, Section]
    theirs: Renames
    structure: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    base_types: tuple[str, ...] = ()
    whole_config: bool = False
    own_code: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    ignored_in: Callable[[Shapes, Section], Mapping[str, str]] | None = None
    layout: Callable[[Mapping[str, Any], Facts], dict[str, Any]] | None = None
    resized: Mapping[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    ends_by: str = "eos_token_id"
    vocabulary: int | None = None
    added_tokens: tuple[str, ...] = ()
    image_words: tuple[str, str] | None = None
    lora_alpha: float | None = None
    fixed: tuple[str, ...] = ()

    def our_key(self, published: str) -> str:
        """Convert a published key to ours."""
        return _rename(published, (*PEFT_KEYS, *self.keys))

    def published_key(self, ours: str) -> str:
        """Convert one of our keys to the published one."""
        return _rename(ours, self.theirs)

    def knows(self, published: str) -> bool:
        """Whether a published key is that of a part of this system, or ignored."""
        return self.why_ignored(published, self.ignored) is not None or self.our_key(published).startswith(PARTS)

    def all_ignored(self, shapes: Shapes, config: Section) -> dict[str, str]:
        """Pattern -> reason, of a checkpoint with these shapes under published keys, and this config.json."""
        return {**self.ignored, **({} if self.ignored_in is None else self.ignored_in(shapes, config))}

    @staticmethod
    def why_ignored(published: str, ignored: Mapping[str, str]) -> str | None:
        """The reason why a published key is ignored; None if it is used."""
        return next((reason for pattern, reason in ignored.items() if re.search(pattern, published)), None)


def _rename(key: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


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
