"""LLaVA 1.5: CLIP ViT-L/14, two linear layers and a Llama (LlavaForConditionalGeneration of transformers).

Published size: 336 px, 576 image tokens of width 1024 from the layer before the last, Vicuna-7B or -13B with 32,064
words.

Source: Liu et al., "Improved Baselines with Visual Instruction Tuning", CVPR 2024.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from prelim.errors import ArchiveError
from prelim.networks.architectures import llama
from prelim.networks.architectures.architecture import Architecture, Published, Section, Shapes
from prelim.networks.architectures.facts import Facts, numbered
from prelim.networks.architectures.image_processor import read_processor

VISION = {"num_attention_heads": 16, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
VICUNA = {**llama.PUBLISHED, "max_position_embeddings": 4096}
VOCABULARY = 32064
FEATURE_LAYER = -2
TOWER = "clip_vision_model"
PREPROCESS = {
    "size": 336,
    "resize": "shortest_edge",
    "interpolation": "bicubic",
    "crop": "floor",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}
_LAYER = r"^(model\.)?vision_tower\.(vision_model\.)?encoder\.layers\."
STRATEGIES = ("default", "full")


def _vision(**dimensions: Any) -> nn.Module:
    # Imported here because `transformers` takes seconds to import.
    from prelim.networks.vision.clip import ClipTower

    return ClipTower(**dimensions)


def _connector(**dimensions: Any) -> nn.Module:
    from prelim.networks.connectors.mlp import MLPConnector

    return MLPConnector(**dimensions)


def _features(layers: int, config: Mapping[str, Any], facts: Facts | None = None) -> list[int]:
    """The layers whose outputs are used, counted from the input of the first, of a tower of `layers` layers."""
    stored = config.get("vision_feature_layer")
    layer = FEATURE_LAYER if stored is None else stored
    if facts is not None:
        layer = facts.value("vision.feature_layer", [FEATURE_LAYER], stored=stored)
    found = layer if isinstance(layer, list) else [layer]
    if not found or any(
        not isinstance(index, int) or isinstance(index, bool) or not -layers - 1 <= index <= layers for index in found
    ):
        raise ArchiveError(
            f"vision_feature_layer is {layer!r}; allowed: integers from {-layers - 1} to {layers}, or a list of them"
        )
    return [index if index >= 0 else layers + 1 + index for index in found]


def _unused(shapes: Shapes, config: Mapping[str, Any]) -> dict[str, str]:
    """Layers after the last one that is used; how many there are depends on the tower."""
    layers = numbered(shapes, ".layer_norm1.weight")
    beyond = range(max(_features(layers, config)), layers) if layers else range(0)
    reason = "the image features are from an earlier layer"
    return {rf"{_LAYER}{layer}\.": reason for layer in beyond}


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    config = facts.config
    width, channels, patch, _ = shapes["vision.embeddings.patch_embedding.weight"]
    side = round((shapes["vision.embeddings.position_embedding.weight"][0] - 1) ** 0.5)
    layers = numbered(shapes, ".layer_norm1.weight")
    stored = config.get("vision_config") or {}
    if stored.get("model_type", TOWER) != TOWER:
        raise ArchiveError(f"config.json has a vision tower of model_type {stored['model_type']!r}; supported: {TOWER}")
    # A value that the file lacks is the default of the model type, not that of the published model.
    default = {**VISION, "num_attention_heads": 12} if stored else {}
    heads, activation, norm_eps = (
        facts.value(f"vision.{name}", value, stored=stored.get(name, default.get(name)))
        for name, value in VISION.items()
    )
    # Layers after the last one that is used are not among our weights.
    features = _features(stored.get("num_hidden_layers") or layers + 1, config, facts)
    features = [min(index, layers) for index in features]
    if channels != 3:
        raise ArchiveError(f"the vision tower takes {channels} channels; supported: 3")
    strategy = facts.value("vision.select_strategy", "default", stored=config.get("vision_feature_select_strategy"))
    if strategy not in STRATEGIES:
        raise ArchiveError(f"vision_feature_select_strategy is {strategy!r}; supported: {', '.join(STRATEGIES)}")
    return {
        "vision": {
            "image_size": side * patch,
            "patch_size": patch,
            "width": width,
            "layers": layers,
            "heads": heads,
            "feedforward": shapes["vision.layers.0.mlp.fc1.weight"][0],
            "activation": activation,
            "norm_eps": norm_eps,
            "features": features,
            "class_token": strategy == "full",
        },
        "connector": {
            "in_width": shapes["connector.linear_1.weight"][1],
            "out_width": shapes["connector.linear_1.weight"][0],
            "activation": facts.value("connector.activation", "gelu", stored=config.get("projector_hidden_act")),
            "bias": "connector.linear_1.bias" in shapes,
        },
        "decoder": llama.decoder_section(shapes, facts, VICUNA, config.get("text_config") or {}),
        "preprocess": read_processor(side * patch, PREPROCESS, facts),
    }


ARCHITECTURE = Architecture(
    vision=_vision,
    connector=_connector,
    published=Published(
        keys=(
            (r"^model\.(vision_tower|multi_modal_projector|language_model)\.", r"\1."),
            (r"^vision_tower\.(vision_model\.)?", "vision."),
            (r"^vision\.pre_layrnorm\.", "vision.pre_norm."),
            (r"^vision\.encoder\.layers\.", "vision.layers."),
            (r"^multi_modal_projector\.", "connector."),
            (r"^language_model\.(model\.)?(embed_tokens|layers|norm)\.", r"decoder.body.\2."),
            (r"^(language_model\.)?lm_head\.", "decoder.lm_head."),
        ),
        theirs=(
            (r"^vision\.pre_norm\.", "vision.pre_layrnorm."),
            (r"^vision\.layers\.", "vision.encoder.layers."),
            (r"^vision\.", "vision_tower.vision_model."),
            (r"^connector\.", "multi_modal_projector."),
            (r"^decoder\.body\.", "language_model.model."),
            (r"^decoder\.lm_head\.", "language_model.lm_head."),
        ),
        ignored={
            **llama.IGNORED,
            r"(^|\.)vision_tower\.(vision_model\.)?post_layernorm\.": "norm after the last layer, which is not used",
            r"(^|\.)vision_tower\.(vision_model\.)?embeddings\.position_ids$": "indices, which are computed",
        },
        ignored_in=_unused,
        defaults={
            "licence": "Llama 2 Community License (llava-hf/llava-1.5-7b-hf)",
            "tokenizer": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 32001},
            "input": {},
            "preprocess": PREPROCESS,
            "generation": {"max_new_tokens": 512},
            "prompt": {
                "bos_token_id": 1,
                "before": "USER: ",
                "after": "\n{prompt} ASSISTANT:",
                "default": "Describe the findings and the impression of this chest x-ray.",
                "max_tokens": 1024,
                "max_images": 2,
                "between_images": "\n",
            },
        },
        dimensions=_dimensions,
        tokenizer="llama2",
        origin="LLaVA 1.5 (Liu et al., 2024) in the form of transformers' LlavaForConditionalGeneration",
        size={
            "vision": {},
            "connector": {"in_width": 1024, "out_width": 4096},
            "decoder": {
                "kind": "transformers",
                "model_type": "llama",
                "vocab_size": VOCABULARY,
                "hidden_size": 4096,
                "intermediate_size": 11008,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
            },
        },
        model_types=("llava",),
        whole_config=True,
        vocabulary=VOCABULARY,
        fixed=("An image token in the text of a request is plain text; the original replaced it by the image.",),
    ),
)
