"""Folders in the form of LLaVA's own code: one section of settings, those of images and of the language model.

Source: Liu et al., "Improved Baselines with Visual Instruction Tuning", CVPR 2024.
"""

import re
from collections.abc import Mapping
from typing import Any

from prelim.errors import ArchiveError
from prelim.networks.architectures import llama, llava, towers
from prelim.networks.architectures.architecture import Section, Shapes
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.settings_check import ALONE, check_known, check_visible

_OFF = ("mm_use_im_start_end", "mm_use_im_patch_token", "tune_im_start", "s2")
_FIXED: Mapping[str, Any] = {
    **ALONE,
    **dict.fromkeys(_OFF, False),
    "mm_vision_select_feature": "patch",
    "mm_patch_merge_type": "flat",
    "mm_resampler_type": None,
}
"""Settings with the only value that is supported."""

FEATURE_LAYER = "mm_vision_select_layer"
_READ = (FEATURE_LAYER, "mm_projector_type", "mm_hidden_size", "image_aspect_ratio")

_NEUTRAL = re.compile(
    # Where the tower's weights came from, what was trained, and the tokenizer of the training.
    r"mm_vision_tower(_config|_checkpoint|_lr)?|use_mm_proj|mm_projector_lr|(un)?freeze_\w+|tune_(mm|vision)_\w+"
    r"|tokenizer_(model_max_length|padding_side)"
    # Of images in tiles, which `image_aspect_ratio` would ask for.
    r"|image_(grid_pinpoints|crop_resolution|split_resolution)"
)
"""Settings that change nothing in a report."""

_PROJECTOR = re.compile(r"linear|mlp\d+x_gelu")


def check_settings(shapes: Shapes, config: Mapping[str, Any]) -> None:
    """Raise ArchiveError for a setting that is not understood, or contradicts the weights.

    shapes : under our keys
    """
    check_known("", config, {*llama.known_settings(), *_READ, *filter(_NEUTRAL.fullmatch, config)}, _FIXED)
    in_width = shapes["connector.linear_1.weight"][1]
    vocab_size = shapes["decoder.body.embed_tokens.weight"][0]
    check_visible("", config, {"mm_hidden_size": in_width, "vocab_size": vocab_size})


def connector_section(shapes: Shapes, config: Mapping[str, Any]) -> Section:
    """Section `connector` of model.yaml. Raises ArchiveError for another projector than the weights have."""
    section = llava.connector_section(shapes)
    kind = config.get("mm_projector_type", "mlp2x_gelu")
    if not isinstance(kind, str) or not _PROJECTOR.fullmatch(kind):
        raise ArchiveError(
            f"config.json: mm_projector_type is {kind!r}; supported: linear, mlp2x_gelu, mlp3x_gelu, ..."
        )
    layers = 1 if kind == "linear" else int(re.findall(r"\d+", kind)[0])
    if layers != section.get("layers", 2):
        raise ArchiveError(
            f"config.json: mm_projector_type is {kind!r}, but the weights have {section.get('layers', 2)} layers"
        )
    return {**section, "activation": "gelu"}


def feature_layer(layers: int, facts: Facts) -> int:
    """The layer of a tower whose output is the image features; LLaVA's code takes one.

    layers : of the weights, which lack those after this one

    Raises ArchiveError if there is no such layer.
    """
    layer = facts.value("vision.feature_layer", llava.FEATURE_LAYER, stored=facts.config.get(FEATURE_LAYER))
    if isinstance(layer, list):
        raise ArchiveError(f"config.json: {FEATURE_LAYER} is {layer!r}; supported: one layer")
    (used,) = towers.used_layers(layers + 1, layer, FEATURE_LAYER)
    return min(used, layers)


def numbered(found: re.Match[str]) -> str:
    """Published key of a layer of the projector, by our key."""
    return f"model.mm_projector.{llava.numbered_layer(found)}"
