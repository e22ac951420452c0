"""Settings of the parts of encoder-decoders of transformers: which are read, change nothing, or are refused."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import Shapes
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.settings_check import (
    COMMON,
    check_activation,
    check_known,
    check_number,
    check_visible,
    is_count,
)

_VIT: Mapping[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
}
_SWIN: Mapping[str, Any] = {
    "image_size": 224,
    "patch_size": 4,
    "num_channels": 3,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "hidden_act": "gelu",
    "use_absolute_embeddings": False,
    "layer_norm_eps": 1e-5,
}
_DINOV2: Mapping[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 14,
    "num_channels": 3,
    "qkv_bias": True,
}
_CVT: Mapping[str, Any] = {
    "num_channels": 3,
    "patch_sizes": [7, 3, 3],
    "patch_stride": [4, 2, 2],
    "patch_padding": [2, 1, 1],
    "embed_dim": [64, 192, 384],
    "num_heads": [1, 3, 6],
    "depth": [1, 2, 10],
    "mlp_ratio": [4.0, 4.0, 4.0],
    "qkv_bias": [True, True, True],
    "cls_token": [False, False, True],
    "kernel_qkv": [3, 3, 3],
    "padding_kv": [1, 1, 1],
    "stride_kv": [2, 2, 2],
    "padding_q": [1, 1, 1],
    "stride_q": [1, 1, 1],
}
ENCODERS: Mapping[str, Mapping[str, Any]] = {
    "vit": _VIT,
    "deit": _VIT,
    "dinov2": _DINOV2,
    "cvt": _CVT,
    "swin": _SWIN,
    "swinv2": {**_SWIN, "pretrained_window_sizes": [0, 0, 0, 0]},
}
"""`model_type` of an encoder -> settings that change what it computes, with the defaults of transformers."""

_BERT: Mapping[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "tie_word_embeddings": True,
}
_GPT2: Mapping[str, Any] = {
    "vocab_size": 50257,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "n_positions": 1024,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}
BLIP_VISION: Mapping[str, Mapping[str, Any]] = {
    "blip_vision_model": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 384,
        "patch_size": 16,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
    }
}
BLIP_TEXT: Mapping[str, Mapping[str, Any]] = {
    "blip_text_model": {
        "vocab_size": 30524,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "layer_norm_eps": 1e-12,
    }
}
DECODERS: Mapping[str, Mapping[str, Any]] = {"bert": _BERT, "gpt2": _GPT2}
"""`model_type` of a decoder -> settings that change what it computes, with the defaults of transformers."""

_FIXED: Mapping[str, Any] = {
    **COMMON,
    "add_cross_attention": True,
    "is_decoder": True,
    "position_embedding_type": "absolute",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "quantization_config": None,
    "use_swiglu_ffn": False,
}
"""Settings with the only value that is supported."""

_NEUTRAL = re.compile(
    r"summary_\w+|pooler_\w+|is_encoder_decoder|encoder_stride|out_features|out_indices|stage_names|num_layers"
    r"|path_norm|tie_word_embeddings|n_ctx|directionality"
)
"""Settings that change nothing in these parts: heads and outputs that are not used, and repetitions."""

_OF_OTHER_KINDS = ("image_size", "patch_size", "mlp_ratio")
"""Settings that may be a list or a fraction although their default is a whole number."""

_DERIVED = ("hidden_size",)
"""Settings that others determine."""

_NEUTRAL_IN: Mapping[str, Collection[str]] = {
    # Masks and scales at the start of training, and maps of features.
    "dinov2": ("use_mask_token", "layerscale_value", "apply_layernorm", "reshape_hidden_states"),
    "blip_text_model": ("label_smoothing", "encoder_hidden_size"),
    # Its norms have an epsilon of their own.
    "cvt": ("attention_drop_rate", "drop_rate", "layer_norm_eps", "qkv_projection_method"),
}
"""The same, of one `model_type`."""


_VIT_LAYERS = ("num_hidden_layers", r"^vision\.body\.layers\.(\d+)\.")
_BERT_LAYERS = ("num_hidden_layers", r"^decoder\.body\.encoder\.layer\.(\d+)\.")
_SWIN_LAYERS = ("depths", r"^vision\.body\.encoder\.layers\.(\d+)\.blocks\.(\d+)\.")
_LAYERS: Mapping[str, tuple[str, str]] = {
    "vit": _VIT_LAYERS,
    "deit": _VIT_LAYERS,
    "dinov2": _VIT_LAYERS,
    "blip_vision_model": ("num_hidden_layers", r"^vision\.body\.encoder\.layers\.(\d+)\."),
    "swin": _SWIN_LAYERS,
    "swinv2": _SWIN_LAYERS,
    "cvt": ("depth", r"^vision\.body\.encoder\.stages\.(\d+)\.layers\.(\d+)\."),
    "bert": _BERT_LAYERS,
    "blip_text_model": _BERT_LAYERS,
    "gpt2": ("n_layer", r"^decoder\.body\.h\.(\d+)\."),
}
"""`model_type` -> setting with the number of layers, or those of each stage, and the beginning of a layer's keys."""


def read_part(
    part: str, section: str, known: Mapping[str, Mapping[str, Any]], facts: Facts, shapes: Shapes
) -> tuple[str, dict[str, Any]]:
    """`model_type` and settings of a part; what config.json lacks is the default of transformers.

    part    : of config.json
    section : of model.yaml
    known   : tables of settings; without a `model_type` there must be one
    shapes  : under our keys

    Raises ArchiveError for a network that is not supported, for a setting that is not understood, and for another
    number of layers than the weights have.
    """
    stored: Mapping[str, Any] = facts.config.get(part) or {}
    if not stored:
        raise ArchiveError(f"config.json has no section {part}; give the config.json of the whole model")
    kind: Any = stored.get("model_type", next(iter(known)) if len(known) == 1 else None)
    if kind not in known:
        raise ArchiveError(f"config.json: {part} is of model_type {kind!r}; supported: {', '.join(known)}")
    check_settings(f"{part}.", stored, {*known[kind], *_NEUTRAL_IN.get(kind, ()), *_DERIVED})
    settings: dict[str, Any] = {}
    for name, default in known[kind].items():
        value = default if stored.get(name) is None else stored[name]
        settings[name] = value if value is None else facts.value(f"{section}.{name}", default, stored=value)
        if name not in _OF_OTHER_KINDS:
            check_number(f"{part}.{name}", settings[name], default)
    if settings.get("hidden_act") is not None:
        check_activation(f"{part}.hidden_act", settings["hidden_act"])
    name, pattern = _LAYERS[kind]
    if counted := _count_layers(shapes, pattern):
        check_visible(f"{part}.", settings, {name: counted if isinstance(settings[name], list) else counted[0]})
    return kind, settings


def _count_layers(shapes: Shapes, pattern: str) -> list[int]:
    """Layers of each stage; of a network without stages, of the whole. Empty if there are none."""
    stages: dict[str, set[str]] = {}
    for key in shapes:
        if found := re.match(pattern, key):
            *stage, layer = found.groups()
            stages.setdefault("".join(stage), set()).add(layer)
    return [len(stages[stage]) for stage in sorted(stages, key=lambda name: int(name or 0))]


def check_width(part: str, width: int, facts: Facts) -> None:
    """Raise ArchiveError if config.json gives a part another width than its other settings do."""
    stored = facts.config[part].get("hidden_size")
    if stored not in (None, width):
        raise ArchiveError(f"config.json: {part}.hidden_size is {stored!r}; its other settings give {width}")


def check_settings(where: str, stored: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise ArchiveError for a setting that is not understood, or has another value than the supported one."""
    check_known(where, stored, {*known, *filter(_NEUTRAL.fullmatch, stored)}, _FIXED)


def read_sides(part: str, settings: Mapping[str, Any]) -> dict[str, int]:
    """Pixels of the sides of images and patches. Raises ArchiveError unless these are squares."""
    return {name: _side(f"{part}.{name}", settings[name]) for name in ("image_size", "patch_size")}


def _side(name: str, stored: Any) -> int:
    sides = stored if isinstance(stored, list) else [stored, stored]
    if len(set(map(str, sides))) != 1 or not is_count(sides[0]):
        raise ArchiveError(f"config.json: {name} is {stored!r}; images and patches must be squares")
    return sides[0]
