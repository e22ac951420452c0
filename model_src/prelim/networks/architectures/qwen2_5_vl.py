"""Qwen2.5-VL, and Lingshu and NV-Reason-CXR with it: a tower for pictures of any sides, a merger and Qwen2.

Published size: 7B, 32 layers of width 1280, an image token for each 28 x 28 pixels. Tokens of an image have positions
in rows and columns (Qwen2_5_VLForConditionalGeneration of transformers). The sizes come from config.json, which is
needed.

Source: Bai et al., "Qwen2.5-VL Technical Report", 2025; LASA Team, "Lingshu", 2025.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prelim.decoders.weights_file import LazyTensor, materialize
from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import Architecture, Published, Section, Shapes
from prelim.networks.architectures.facts import Facts, numbered
from prelim.networks.architectures.grid_processor import read_grid_processor
from prelim.networks.architectures.settings_check import check_known, check_visible, complete_settings

VOCABULARY, IMAGE_TOKEN = 152064, 151655
TEXT, VISION = "qwen2_5_vl_text", "qwen2_5_vl_vision"
PREPROCESS = {
    "size": 28,
    "resize": "multiples",
    "min_pixels": 3136,
    "max_pixels": 1003520,
    "interpolation": "bicubic",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}
_IMAGE = "<|vision_start|>", "<|vision_end|>"
_USER = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
_ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"

_TEXT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_parameters"),
    *("use_sliding_window", "sliding_window", "max_window_layers", "layer_types"),
)
"""Settings of the decoder that change what it computes."""

_OLD_TEXT = ("rope_theta", "rope_scaling")
"""Names in older files, which transformers converts to rope_parameters."""

_VISION = (
    *("depth", "hidden_size", "hidden_act", "intermediate_size", "num_heads", "in_channels", "patch_size"),
    *("spatial_merge_size", "temporal_patch_size", "window_size", "out_hidden_size", "fullatt_block_indexes"),
    "rope_parameters",
)
"""Settings of the tower that change what it computes."""

_UNUSED_VISION: Mapping[str, str] = {"in_chans": "in_channels", "spatial_patch_size": "patch_size"}
"""Settings that transformers does not read -> those whose values they repeat."""

_WHOLE = (
    *("text_config", "vision_config", "image_token_id", "quantization_config", "tie_word_embeddings"),
    *("video_token_id", "vision_start_token_id", "vision_end_token_id", "vision_token_id"),
)
"""Settings of config.json outside of its sections."""


def _vision(**dimensions: Any) -> nn.Module:
    from prelim.networks.vision.window_tower import WindowTower

    return WindowTower(**dimensions)


def _connector(**dimensions: Any) -> nn.Module:
    from prelim.networks.connectors.patch_merger import PatchMerger

    return PatchMerger(**dimensions)


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    config = facts.config
    if not config:
        raise ArchiveError("this system needs the config.json of the checkpoint; give the whole folder")
    text = config.get("text_config")
    check_known("", config, (*_WHOLE, *_TEXT, *_OLD_TEXT))
    vision, sides = _tower(shapes, facts)
    in_width, out_width = shapes["connector.linear_1.weight"][1], shapes["connector.linear_2.weight"][0]
    decoder = _decoder(shapes, facts, text or {name: config[name] for name in (*_TEXT, *_OLD_TEXT) if name in config})
    tied = any(bool(part.get("tie_word_embeddings")) for part in (config, text or {}))
    token_id = facts.value("decoder.image_token_id", IMAGE_TOKEN, stored=config.get("image_token_id"))
    if not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id < decoder["vocab_size"]:
        raise ArchiveError(
            f"config.json: image_token_id is {token_id!r}; allowed: the id of a token, 0 to {decoder['vocab_size'] - 1}"
        )
    return {
        "vision": vision,
        "connector": {"in_width": in_width, "out_width": out_width, "patches": sides["merge_size"] ** 2},
        "decoder": {
            **decoder,
            "tie_word_embeddings": facts.value("decoder.tie_word_embeddings", tied, stored=tied),
            "image_token_id": token_id,
        },
        "preprocess": read_grid_processor(PREPROCESS, facts, sides),
    }


def _tower(shapes: Shapes, facts: Facts) -> tuple[Section, dict[str, int]]:
    """Section `vision` of model.yaml, and the sides by which a processor cuts a picture.

    Raises ArchiveError for a setting that is not supported, or contradicts the weights.
    """
    stored = {"model_type": VISION, **(facts.config.get("vision_config") or {})}
    # Older files have the type of the whole.
    if stored["model_type"] not in (VISION, "qwen2_5_vl"):
        raise ArchiveError(f"config.json: vision_config is of model_type {stored['model_type']!r}; supported: {VISION}")
    check_known("vision_config.", stored, (*_VISION, *_UNUSED_VISION, "tokens_per_second"))
    values = complete_settings(VISION, "vision_config", {n: v for n, v in stored.items() if n in _VISION}, _VISION)
    width, channels, depth, patch, _ = shapes["vision.patches.weight"]
    patches = shapes["connector.linear_1.weight"][1] // width
    sides = {"patch_size": patch, "merge_size": round(patches**0.5), "temporal_patch_size": depth}
    visible = {
        "depth": numbered(shapes, ".gate.weight"),
        "hidden_size": width,
        "intermediate_size": shapes["vision.layers.0.gate.weight"][0],
        "in_channels": channels,
        "patch_size": patch,
        "spatial_merge_size": sides["merge_size"],
        "temporal_patch_size": depth,
        "out_hidden_size": shapes["connector.linear_2.weight"][0],
    }
    check_visible("vision_config.", values, visible)
    check_visible("vision_config.", stored, {name: visible[same] for name, same in _UNUSED_VISION.items()})
    if channels != 3:
        raise ArchiveError(f"the vision tower takes {channels} channels; supported: 3")
    heads, whole, rotary = (values[name] for name in ("num_heads", "fullatt_block_indexes", "rope_parameters"))
    window = values["window_size"] // sides["merge_size"] // patch
    allowed = {
        "hidden_act": (values["hidden_act"] == "silu", "silu"),
        "num_heads": (heads > 0 and width % (4 * heads) == 0, f"a number of which {width} is a multiple four times"),
        "window_size": (window > 0, f"at least {patch * sides['merge_size']}"),
        "fullatt_block_indexes": ({*whole} <= {*range(visible["depth"])}, f"layers 0 to {visible['depth'] - 1}"),
        "rope_parameters": ({*rotary} <= {"rope_type", "rope_theta"}, "rope_type axial and rope_theta"),
    }
    for name, (fits, supported) in allowed.items():
        if not fits:
            raise ArchiveError(f"config.json: vision_config.{name} is {values[name]!r}; supported: {supported}")
    return {
        "patch_size": patch,
        "merge": sides["merge_size"],
        "width": width,
        "layers": visible["depth"],
        "heads": facts.value("vision.num_heads", heads, stored=heads),
        "feedforward": visible["intermediate_size"],
        "window": window,
        "whole_layers": sorted(whole),
        "rotary_base": float(rotary["rope_theta"]),
    }, sides


def _decoder(shapes: Shapes, facts: Facts, text: Section) -> Section:
    """Section `decoder` of model.yaml.

    text : the settings of the language model

    Raises ArchiveError for a setting that is not supported, or contradicts the weights.
    """
    stored = {"model_type": TEXT, **text}
    if stored["model_type"] != TEXT:
        raise ArchiveError(f"config.json: text_config is of model_type {stored['model_type']!r}; supported: {TEXT}")
    check_known("text_config.", stored, (*_TEXT, *_OLD_TEXT, *_WHOLE))
    # Older files repeat the section's settings, which are not read then.
    check_visible("", facts.config, {name: stored[name] for name in (*_TEXT, *_OLD_TEXT) if name in stored})
    given = {name: value for name, value in stored.items() if name in (*_TEXT, *_OLD_TEXT)}
    values = complete_settings(TEXT, "text_config", given, _TEXT)
    attention = "decoder.body.layers.0.self_attn."
    rows = {name: shapes[f"{attention}{name}_proj.weight"][0] for name in "qk"}
    vocab_size, width = shapes["decoder.body.embed_tokens.weight"]
    visible = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": shapes["decoder.body.layers.0.mlp.gate_proj.weight"][0],
        "num_hidden_layers": numbered(shapes, ".mlp.gate_proj.weight"),
    }
    check_visible("text_config.", values, visible)
    heads, key_heads = values["num_attention_heads"], values["num_key_value_heads"]
    if heads < 1 or rows["q"] != width or rows["k"] * heads != key_heads * width:
        raise ArchiveError(
            f"config.json: num_attention_heads is {heads!r} and num_key_value_heads {key_heads!r}; the weights have "
            f"{rows['q']} rows of queries and {rows['k']} of keys"
        )
    sections = values["rope_parameters"].get("mrope_section", (16, 24, 24))
    if not all(isinstance(size, int) and size >= 0 for size in sections) or sum(sections) != width // heads // 2:
        raise ArchiveError(
            f"config.json: rope_parameters has mrope_section {sections!r}; the sum must be {width // heads // 2}, half "
            "of a head"
        )
    return {
        "kind": "transformers",
        "model_type": TEXT,
        **{
            name: value if value is None else facts.value(f"decoder.{name}", value, stored=value)
            for name, value in values.items()
        },
    }


def _layout(weights: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Filters of two pictures in time, which are the same one here, are added."""
    ours, key = dict(weights), "vision.patches.weight"
    if key in ours and len(ours[key].shape) == 5:
        stored = ours[key]
        shape = _together(torch.empty(stored.shape, device="meta")).shape
        ours[key] = LazyTensor(tuple(shape), torch.float32, partial(_changed, stored, _together))
    return ours


def _together(filters: Tensor) -> Tensor:
    return filters.float().sum(dim=2).flatten(1)


def _changed(stored: Tensor | LazyTensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    return change(materialize(stored))


ARCHITECTURE = Architecture(
    vision=_vision,
    connector=_connector,
    published=Published(
        keys=(
            (r"^model\.(visual|language_model)\.", r"\1."),
            (r"^visual\.patch_embed\.proj\.", "vision.patches."),
            (r"^visual\.blocks\.(\d+)\.attn\.qkv\.", r"vision.layers.\1.qkv."),
            (r"^visual\.blocks\.(\d+)\.attn\.proj\.", r"vision.layers.\1.out."),
            (r"^visual\.blocks\.(\d+)\.mlp\.(gate|up|down)_proj\.", r"vision.layers.\1.\2."),
            (r"^visual\.blocks\.(\d+)\.(norm[12])\.", r"vision.layers.\1.\2."),
            (r"^visual\.merger\.ln_q\.", "connector.norm."),
            (r"^visual\.merger\.mlp\.0\.", "connector.linear_1."),
            (r"^visual\.merger\.mlp\.2\.", "connector.linear_2."),
            (r"^(language_model\.)?(model\.)?(embed_tokens|layers|norm)\.", r"decoder.body.\3."),
            (r"^(language_model\.)?lm_head\.", "decoder.lm_head."),
        ),
        theirs=(
            (r"^vision\.patches\.", "visual.patch_embed.proj."),
            (r"^vision\.layers\.(\d+)\.qkv\.", r"visual.blocks.\1.attn.qkv."),
            (r"^vision\.layers\.(\d+)\.out\.", r"visual.blocks.\1.attn.proj."),
            (r"^vision\.layers\.(\d+)\.(gate|up|down)\.", r"visual.blocks.\1.mlp.\2_proj."),
            (r"^vision\.layers\.", "visual.blocks."),
            (r"^connector\.norm\.", "visual.merger.ln_q."),
            (r"^connector\.linear_1\.", "visual.merger.mlp.0."),
            (r"^connector\.linear_2\.", "visual.merger.mlp.2."),
            (r"^decoder\.body\.", "model."),
            (r"^decoder\.lm_head\.", "lm_head."),
        ),
        ignored={r"rotary_(pos_)?emb\.inv_freq$": "computed from the configuration"},
        defaults={
            "licence": "GAP",
            "tokenizer": {"bos_token_id": 151643, "eos_token_id": [151645, 151643], "pad_token_id": 151643},
            "input": {},
            "preprocess": PREPROCESS,
            "generation": {"max_new_tokens": 512},
            "prompt": {
                "before": f"{_USER}{_IMAGE[0]}",
                "after": f"{_IMAGE[1]}{{prompt}}{_ASSISTANT}",
                "default": "Describe the findings and the impression of this chest x-ray.",
                "max_tokens": 2048,
                "max_images": 4,
                "between_images": f"{_IMAGE[1]}{_IMAGE[0]}",
            },
        },
        dimensions=_dimensions,
        layout=_layout,
        tokenizer="transformers",
        origin="Qwen2.5-VL (Bai et al., 2025) in the form of transformers' Qwen2_5_VLForConditionalGeneration",
        size={
            "vision": {},
            "connector": {"in_width": 5120, "out_width": 3584},
            "decoder": {
                "kind": "transformers",
                "model_type": TEXT,
                "vocab_size": VOCABULARY,
                "hidden_size": 3584,
                "intermediate_size": 18944,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
                "max_position_embeddings": 128000,
                "tie_word_embeddings": False,
            },
        },
        model_types=("qwen2_5_vl",),
        whole_config=True,
        vocabulary=VOCABULARY,
        fixed=("An image token in the text of a request is plain text; the original replaced it by the image.",),
    ),
)
