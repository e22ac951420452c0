"""Keys and dimensions of the vision towers of LLaVA's family: CLIP, SigLIP and DINOv2 of `transformers`."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import Renames, Section, Shapes
from prelim.networks.architectures.facts import Facts, numbered
from prelim.networks.architectures.settings_check import check_activation, check_known, check_visible, is_count

CLIP, SIGLIP, DINOV2 = "clip_vision_model", "siglip_vision_model", "dinov2"

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    CLIP: {"num_attention_heads": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    SIGLIP: {"num_attention_heads": 12, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
    DINOV2: {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
}
"""`model_type` of a tower -> settings that the shapes do not show, with the defaults of transformers."""

_SHAPES = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_channels", "image_size", "patch_size"),
    *("vision_use_head", "vocab_size", "mlp_ratio", "qkv_bias", "layerscale_value", "use_swiglu_ffn", "use_mask_token"),
)
_BACKBONE = ("out_features", "out_indices", "stage_names", "apply_layernorm", "reshape_hidden_states")
"""Settings that the weights show, or whose part is not used; and those of feature maps, which are read by MAIRA-2."""

LAYERS = 12
"""`num_hidden_layers` of each where a config.json lacks it."""

_STRATEGIES = ("default", "full")
_NORMS = ("layer_norm1.weight", "norm1.weight")
_LAYER = r"(^|\.)(vision_tower\.(vision_model\.)?encoder\.layers?|visual\.trunk\.blocks)\."
"""Beginning of a layer's published keys, in transformers and in timm."""

_DINO = r"^vision\.layers\.(\d+)\."

KEYS: Renames = (
    (r"^vision_tower\.(vision_model\.)?", "vision."),
    (r"^vision\.pre_layrnorm\.", "vision.pre_norm."),
    (r"^vision\.(post_layernorm|layernorm)\.", "vision.final_norm."),
    (r"^vision\.encoder\.layers?\.", "vision.layers."),
    # DINOv2 as it is saved; its layers have other names in memory since version 5.
    (rf"{_DINO}attention\.attention\.(q|k|v)(uery|ey|alue)\.", r"vision.layers.\1.attention.\2_proj."),
    (rf"{_DINO}attention\.output\.dense\.", r"vision.layers.\1.attention.o_proj."),
)
"""Key of a tower, after the prefix of the whole model is removed -> our key."""

THEIRS: Renames = (
    (r"^vision\.pre_norm\.", "vision.pre_layrnorm."),
    (rf"{_DINO}attention\.q_proj\.", r"vision_tower.encoder.layer.\1.attention.attention.query."),
    (rf"{_DINO}attention\.k_proj\.", r"vision_tower.encoder.layer.\1.attention.attention.key."),
    (rf"{_DINO}attention\.v_proj\.", r"vision_tower.encoder.layer.\1.attention.attention.value."),
    (rf"{_DINO}attention\.o_proj\.", r"vision_tower.encoder.layer.\1.attention.output.dense."),
    (rf"{_DINO}(norm[12]|layer_scale[12])\.", r"vision_tower.encoder.layer.\1.\2."),
    (r"^vision\.final_norm\.", "vision_tower.layernorm."),
    (r"^vision\.embeddings\.(cls_token|position_embeddings|patch_embeddings)\b", r"vision_tower.embeddings.\1"),
    (r"^vision\.layers\.", "vision.encoder.layers."),
    (r"^vision\.", "vision_tower.vision_model."),
)
"""Our key -> key of a checkpoint."""

IGNORED = {
    r"(^|\.)vision_tower\.(vision_model\.)?embeddings\.position_ids$": "indices, which are computed",
    r"(^|\.)vision_tower\.(vision_model\.)?head\.": "pooling layer, which the decoder does not read",
    r"(^|\.)vision_tower\.(vision_model\.)?embeddings\.mask_token$": "only for training",
}
LAST_NORM = {
    r"(^|\.)vision_tower\.(vision_model\.)?(post_)?layernorm\.": "norm after the last layer, which is not used"
}
"""What is ignored in towers whose features are not normalized."""


def build_tower(**dimensions: Any) -> nn.Module:
    """Build the tower from its section of model.yaml."""
    # Imported here because `transformers` takes seconds to import.
    from prelim.networks.vision.feature_tower import FeatureTower

    return FeatureTower(**dimensions)


def count_layers(shapes: Shapes) -> int:
    """Layers of a tower, under any keys."""
    return max(numbered(shapes, f".{norm}") for norm in _NORMS)


def check_layers(stored: Mapping[str, Any], layers: int, layer: Any) -> None:
    """Raise ArchiveError if the last layer that is used is another one by a config.json than by the weights.

    stored : the tower's config.json
    layers : of the weights, up to the last one that is used
    layer  : vision_feature_layer
    """
    count = stored.get("num_hidden_layers", LAYERS)
    if not is_count(count) or count < layers or max(used_layers(count, layer)) != layers:
        raise ArchiveError(
            f"config.json: vision_config.num_hidden_layers is {count!r}, but the weights have {layers} layers up to "
            "the last one that is used"
        )


def used_layers(layers: int, layer: Any, setting: str = "vision_feature_layer") -> list[int]:
    """The layers whose outputs are used, counted from the input of the first, of a tower of `layers` layers.

    layer : the value of `setting`. Raises ArchiveError if there is no such layer.
    """
    found = layer if isinstance(layer, list) else [layer]
    if not found or any(
        not isinstance(index, int) or isinstance(index, bool) or not -layers - 1 <= index <= layers for index in found
    ):
        raise ArchiveError(
            f"{setting} is {layer!r}; allowed: integers from {-layers - 1} to {layers}, or a list of them"
        )
    return [index if index >= 0 else layers + 1 + index for index in found]


def unused_layers(layers: int, layer: Any, setting: str = "vision_feature_layer") -> dict[str, str]:
    """Pattern -> reason, of the layers after the last one that is used, which a setting names."""
    beyond = range(max(used_layers(layers, layer, setting)), layers) if layers else range(0)
    reason = "the image features are from an earlier layer"
    return {rf"{_LAYER}{layer}\.": reason for layer in beyond}


def tower_section(
    shapes: Shapes,
    facts: Facts,
    stored: Mapping[str, Any],
    published: Mapping[str, Any],
    features: Sequence[int],
    *,
    final_norm: bool = False,
    class_token: bool | None = None,
) -> Section:
    """Section `vision` of model.yaml.

    stored    : the tower's config.json; empty if there is none
    published : its settings in the published model
    features  : layers whose outputs are used
    class_token : the features have the first token; None: as vision_feature_select_strategy says

    Raises ArchiveError for another network, and for values that do not fit the shapes.
    """
    kind = stored.get("model_type", CLIP)
    if kind not in SETTINGS:
        raise ArchiveError(f"config.json has a vision tower of model_type {kind!r}; supported: {', '.join(SETTINGS)}")
    check_known("vision_config.", stored, {*SETTINGS[kind], *_SHAPES, *_BACKBONE})
    # A value that the file lacks is the default of the model type, not that of the published model.
    default = SETTINGS[kind] if stored.keys() - {"model_type"} else {}
    settings = {
        name: facts.value(f"vision.{name}", value, stored=stored.get(name, default.get(name)))
        for name, value in published.items()
    }
    check_activation("vision_config.hidden_act", settings["hidden_act"])
    patches = "patch_embeddings.projection" if kind == DINOV2 else "patch_embedding"
    positions = "position_embeddings" if kind == DINOV2 else "position_embedding.weight"
    width, channels, patch, _ = shapes[f"vision.embeddings.{patches}.weight"]
    side = round((shapes[f"vision.embeddings.{positions}"][-2] - (kind != SIGLIP)) ** 0.5)
    if channels != 3:
        raise ArchiveError(f"the vision tower takes {channels} channels; supported: 3")
    if stored.get("use_swiglu_ffn"):
        raise ArchiveError(f"vision_config.use_swiglu_ffn is {stored['use_swiglu_ffn']!r}; supported: false")
    feedforward = shapes["vision.layers.0.mlp.fc1.weight"][0]
    biased = "vision.layers.0.attention.q_proj.bias" in shapes
    own = (
        {"mlp_ratio": feedforward / width, "qkv_bias": biased} if kind == DINOV2 else {"intermediate_size": feedforward}
    )
    visible = {"hidden_size": width, "num_channels": channels, "image_size": side * patch, "patch_size": patch}
    check_visible("vision_config.", stored, {**visible, **own})
    section = {
        "image_size": side * patch,
        "patch_size": patch,
        "width": width,
        "layers": count_layers(shapes),
        "heads": settings["num_attention_heads"],
        "feedforward": feedforward,
        "activation": settings["hidden_act"],
        "norm_eps": settings["layer_norm_eps"],
        "features": list(features),
        "class_token": _with_class_token(facts) if class_token is None else class_token,
    }
    if kind == DINOV2:
        section["qkv_bias"] = biased
    return {**({} if kind == CLIP else {"model_type": kind}), **section, **({"final_norm": True} if final_norm else {})}


def _with_class_token(facts: Facts) -> bool:
    """Whether the features have the first token. Raises ArchiveError for an unknown strategy."""
    stored = facts.config.get("vision_feature_select_strategy")
    strategy = facts.value("vision.select_strategy", "default", stored=stored)
    if strategy not in _STRATEGIES:
        raise ArchiveError(f"vision_feature_select_strategy is {strategy!r}; supported: {', '.join(_STRATEGIES)}")
    return bool(strategy == "full")
