"""LLaVA-Med 1.5: CLIP ViT-L/14, two linear layers and Mistral, in the form of LLaVA's own code, not of transformers'.

Published size: 336 px, 576 image tokens of width 1024 from the layer before the last, Mistral-7B.

Source: Li et al., "LLaVA-Med: Training a Large Language-and-Vision Assistant for Biomedicine in One Day", NeurIPS 2023.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from prelim.errors import ArchiveError
from prelim.networks.architectures import llama, llava, towers
from prelim.networks.architectures.architecture import Architecture, Published, Section, Shapes
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.image_processor import OF_TOWERS, read_processor

PREPROCESS = {**llava.PREPROCESS, "resize": "pad_mean"}
MISTRAL = {**llama.PUBLISHED, "model_type": "mistral", "rope_theta": 1e6, "max_position_embeddings": 32768}

_FIXED: Mapping[str, tuple[Any, ...]] = {
    "mm_vision_select_feature": ("patch",),
    "mm_use_im_start_end": (False,),
    "mm_use_im_patch_token": (False,),
    "mm_patch_merge_type": ("flat",),
    "mm_resampler_type": (),
    "tune_im_start": (False,),
    "s2": (False,),
}
"""Settings of LLaVA's code and the values that are supported, besides null."""

_RESIZES = {"pad": "pad_mean", None: "shortest_edge"}
"""image_aspect_ratio -> `resize` of model.yaml."""

_PROJECTOR = re.compile(r"linear|mlp\d+x_gelu")


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    config = facts.config
    for name, allowed in _FIXED.items():
        if config.get(name) is not None and config[name] not in allowed:
            supported = ", ".join(map(repr, allowed)) or "null"
            raise ArchiveError(f"config.json: {name} is {config[name]!r}; supported: {supported}")
    layers = towers.count_layers(shapes)
    layer = facts.value("vision.feature_layer", llava.FEATURE_LAYER, stored=config.get("mm_vision_select_layer"))
    # The layer after the last one that is used is not among our weights.
    used = [min(index, layers) for index in towers.used_layers(layers + 1, layer)]
    vision = towers.tower_section(shapes, facts, {}, llava.VISION, used)
    aspect = config.get("image_aspect_ratio", "pad")
    if aspect not in _RESIZES:
        raise ArchiveError(f"config.json: image_aspect_ratio is {aspect!r}; supported: 'pad', null")
    return {
        "vision": vision,
        "connector": {**llava.connector_section(shapes), "activation": _activation(config)},
        "decoder": llama.decoder_section(shapes, facts, MISTRAL, {**config, "model_type": "mistral"} if config else {}),
        "preprocess": {
            **read_processor(vision["image_size"], PREPROCESS, facts, classes=OF_TOWERS),
            "resize": _RESIZES[aspect],
        },
    }


def _activation(config: Mapping[str, Any]) -> str:
    """Of the projector. Raises ArchiveError for another projector."""
    kind = config.get("mm_projector_type", "mlp2x_gelu")
    if not isinstance(kind, str) or not _PROJECTOR.fullmatch(kind):
        raise ArchiveError(
            f"config.json: mm_projector_type is {kind!r}; supported: linear, mlp2x_gelu, mlp3x_gelu, ..."
        )
    return "gelu"


def _numbered(found: re.Match[str]) -> str:
    return f"model.mm_projector.{llava.numbered_layer(found)}"


ARCHITECTURE = Architecture(
    vision=towers.build_tower,
    connector=llava.build_connector,
    published=Published(
        keys=(
            (r"^model\.vision_tower\.vision_tower\.", "vision_tower."),
            *towers.KEYS,
            (r"^model\.mm_projector\.(?:(\d+)\.)?", llava.connector_layer),
            *llama.KEYS,
        ),
        theirs=(
            *towers.THEIRS,
            (r"^vision_tower\.", "model.vision_tower.vision_tower."),
            (r"^connector\.linear_(\d+)\.", _numbered),
            *llama.THEIRS,
        ),
        ignored={**llama.IGNORED, **towers.IGNORED, **towers.LAST_NORM},
        ignored_in=partial(llava.unused, setting="mm_vision_select_layer"),
        defaults={
            "licence": "Apache License 2.0; research only (microsoft/llava-med-v1.5-mistral-7b)",
            "tokenizer": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
            "input": {},
            "preprocess": PREPROCESS,
            "generation": {"max_new_tokens": 512},
            "prompt": {
                "bos_token_id": 1,
                "before": "[INST] ",
                "after": "\n{prompt} [/INST]",
                "default": "Describe the findings and the impression of this chest x-ray.",
                "max_tokens": 1024,
            },
        },
        dimensions=_dimensions,
        tokenizer="llama2",
        origin="LLaVA-Med 1.5 (Li et al., 2023), microsoft/llava-med-v1.5-mistral-7b",
        size={
            "vision": {},
            "connector": {"in_width": 1024, "out_width": 4096},
            "decoder": {
                "kind": "transformers",
                "model_type": "mistral",
                "vocab_size": 32000,
                "hidden_size": 4096,
                "intermediate_size": 14336,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
            },
        },
        model_types=("llava_mistral",),
        whole_config=True,
        vocabulary=32000,
        fixed=("An image token in the text of a request is plain text; the original replaced it by the image.",),
    ),
)
