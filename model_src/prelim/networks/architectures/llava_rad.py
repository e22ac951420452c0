"""LLaVA-Rad: BiomedCLIP-CXR (a DINOv2 ViT-B/14 of timm), two linear layers and Vicuna-7B with low-rank adapters.

Published size: 518 px, 1,369 image tokens of width 768 from the layer before the last, without the norm after it. The
weights come in four parts: adapter, connector, the checkpoint of the tower's training, and the language model.

Source: Zambrano Chaves et al., "Towards a clinically accessible radiology foundation model: open-access and
lightweight, with automated evaluation", 2024.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from prelim.decoders.weights_file import LazyTensor, materialize
from prelim.errors import ArchiveError
from prelim.networks.architectures import llama, llava, llava_code, towers
from prelim.networks.architectures.architecture import CHEST_RADIOGRAPHS, Architecture, Published, Section, Shapes
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.image_processor import OF_TOWERS, read_processor

VISION = towers.SETTINGS[towers.DINOV2]
PREPROCESS = {
    "size": 518,
    "resize": "shortest_edge",
    "interpolation": "bicubic",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}
_ASPECTS = ("square", None)
"""Values of image_aspect_ratio with which an image is cropped to a square; its reports were always written so."""

_LAYER = r"^vision\.layers\.(\d+)\."
_JOINED = r"attention\.qkv\."
_PROJECTIONS = ("q", "k", "v")


def _split(name: str) -> list[str]:
    """Our keys of queries, keys and values, which timm has in one matrix."""
    return [re.sub(_JOINED, f"attention.{one}_proj.", name) for one in _PROJECTIONS]


def _layout(weights: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Split the joined matrices of timm, one third each, in the order of _PROJECTIONS."""
    ours: dict[str, Any] = {}
    for key, weight in weights.items():
        if not re.search(_LAYER + _JOINED, key):
            ours[key] = weight
            continue
        if not weight.shape:
            name = key.replace("vision.layers.", "visual.trunk.blocks.").replace("attention", "attn")
            raise ArchiveError(f"{name} has shape (), expected a third each of queries, keys and values")
        shape = (weight.shape[0] // 3, *weight.shape[1:])
        ours |= {
            name: LazyTensor(shape, weight.dtype, partial(_third, weight, i)) for i, name in enumerate(_split(key))
        }
    return ours


def _third(joined: Tensor | LazyTensor, index: int) -> Tensor:
    return materialize(joined).chunk(3)[index].contiguous()


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    config = facts.config
    llava_code.check_settings(shapes, config)
    layer = llava_code.feature_layer(towers.count_layers(shapes), facts)
    parts = {name: shapes[key] for key in shapes if re.search(_LAYER + _JOINED, key) for name in _split(key)}
    vision = towers.tower_section({**shapes, **parts}, facts, {"model_type": towers.DINOV2}, VISION, [layer])
    aspect = config.get("image_aspect_ratio")
    if aspect not in _ASPECTS:
        raise ArchiveError(f"config.json: image_aspect_ratio is {aspect!r}; supported: 'square', null")
    text = {**config, "model_type": "llama"} if config else {}
    llama.check_layers("", shapes, text)
    return {
        "vision": vision,
        "connector": llava_code.connector_section(shapes, config),
        "decoder": llama.decoder_section(shapes, facts, llava.VICUNA, text),
        "preprocess": read_processor(vision["image_size"], PREPROCESS, facts, classes=OF_TOWERS),
    }


ARCHITECTURE = Architecture(
    vision=towers.build_tower,
    connector=llava.build_connector,
    published=Published(
        keys=(
            (r"^visual\.trunk\.", "vision."),
            (r"^vision\.patch_embed\.proj\.", "vision.embeddings.patch_embeddings.projection."),
            (r"^vision\.cls_token$", "vision.embeddings.cls_token"),
            (r"^vision\.pos_embed$", "vision.embeddings.position_embeddings"),
            (r"^vision\.blocks\.(\d+)\.", r"vision.layers.\1."),
            (rf"{_LAYER}attn\.proj\.", r"vision.layers.\1.attention.o_proj."),
            (rf"{_LAYER}attn\.qkv\.", r"vision.layers.\1.attention.qkv."),
            (rf"{_LAYER}ls([12])\.gamma$", r"vision.layers.\1.layer_scale\2.lambda1"),
            (r"^model\.mm_projector\.(?:(\d+)\.)?", llava.connector_layer),
            *llama.KEYS,
        ),
        theirs=(
            (rf"{_LAYER}attention\.o_proj\.", r"vision.layers.\1.attn.proj."),
            (rf"{_LAYER}attention\.[qkv]_proj\.", r"vision.layers.\1.attn.qkv."),
            (rf"{_LAYER}layer_scale([12])\.lambda1$", r"vision.layers.\1.ls\2.gamma"),
            (_LAYER, r"vision.blocks.\1."),
            (r"^vision\.embeddings\.patch_embeddings\.projection\.", "vision.patch_embed.proj."),
            (r"^vision\.embeddings\.cls_token$", "vision.cls_token"),
            (r"^vision\.embeddings\.position_embeddings$", "vision.pos_embed"),
            (r"^vision\.", "visual.trunk."),
            (r"^connector\.linear_(\d+)\.", llava_code.numbered),
            *llama.THEIRS,
        ),
        ignored={
            **llama.IGNORED,
            r"^visual\.trunk\.norm\.": "norm after the last layer, which is not used",
            r"^visual\.head\.": "projection into BiomedCLIP's space of images and texts, which the system does not use",
            r"^text\.": "BiomedCLIP's text tower, which the system does not use",
            r"^logit_(scale|bias)$": "temperature of BiomedCLIP's contrastive training",
        },
        ignored_in=partial(llava.unused, setting=llava_code.FEATURE_LAYER),
        layout=_layout,
        defaults={
            "licence": "Microsoft Research License; research only (microsoft/llava-rad); Llama 2 Community License "
            "(Vicuna-7B v1.5)",
            "tokenizer": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
            "input": {"accepts": CHEST_RADIOGRAPHS},
            "preprocess": PREPROCESS,
            "generation": {"max_new_tokens": 256},
            "prompt": {
                "bos_token_id": 1,
                "before": "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
                "helpful, detailed, and polite answers to the user's questions. USER: ",
                "after": "\n{prompt} ASSISTANT:",
                "default": "Provide a description of the findings in the radiology image.",
                "max_tokens": 1024,
            },
        },
        dimensions=_dimensions,
        tokenizer="llama2",
        origin="LLaVA-Rad (Zambrano Chaves et al., 2024), microsoft/llava-rad",
        size={
            "vision": {
                "model_type": towers.DINOV2,
                "image_size": 518,
                "width": 768,
                "layers": 11,
                "heads": 12,
                "feedforward": 3072,
                "activation": "gelu",
                "norm_eps": 1e-6,
                "features": [11],
            },
            "connector": {"in_width": 768, "out_width": 4096},
            "decoder": {**llama.SEVEN_BILLION, "vocab_size": 32000},
        },
        model_types=("llava_llama",),
        base_types=("llama",),
        whole_config=True,
        vocabulary=32000,
        fixed=("An image token in the text of a request is plain text; the original replaced it by the image.",),
    ),
)
