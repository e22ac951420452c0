"""LLaVA 1.5: CLIP ViT-L/14, two linear layers and a Llama (LlavaForConditionalGeneration of transformers).

Published size: 336 px, 576 image tokens of width 1024 from the layer before the last, Vicuna-7B or -13B with 32,064
words.

Source: Liu et al., "Improved Baselines with Visual Instruction Tuning", CVPR 2024.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from prelim.errors import ArchiveError
from prelim.networks.architectures import llama, towers
from prelim.networks.architectures.architecture import Architecture, Published, Renames, Section, Shapes
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.image_processor import OF_TOWERS, read_processor
from prelim.networks.architectures.settings_check import check_known, check_visible

VISION = {"num_attention_heads": 16, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
VICUNA = {**llama.PUBLISHED, "max_position_embeddings": 4096}
VOCABULARY, IMAGE_TOKEN = 32064, 32000
FEATURE_LAYER = -2
PREPROCESS = {
    "size": 336,
    "resize": "shortest_edge",
    "interpolation": "bicubic",
    "crop": "floor",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}


KEYS: Renames = (
    (r"^model\.(vision_tower|multi_modal_projector|language_model)\.", r"\1."),
    *towers.KEYS,
    (r"^multi_modal_projector\.", "connector."),
    (r"^language_model\.(model\.)?(embed_tokens|layers|norm|final_layernorm)\.", r"decoder.body.\2."),
    (r"^(language_model\.)?lm_head\.", "decoder.lm_head."),
)
THEIRS: Renames = (
    *towers.THEIRS,
    (r"^connector\.", "multi_modal_projector."),
    (r"^decoder\.body\.", "language_model.model."),
    (r"^decoder\.lm_head\.", "language_model.lm_head."),
)


def connector_layer(found: re.Match[str]) -> str:
    """Our key of a layer of a projector, whose layers are numbered with the activations between them."""
    return f"connector.linear_{int(found[1] or 0) // 2 + 1}."


def numbered_layer(found: re.Match[str]) -> str:
    """The number of a layer of such a projector, by our key."""
    return f"{2 * (int(found[1]) - 1)}."


def build_connector(**dimensions: Any) -> nn.Module:
    """Build the connector from its section of model.yaml."""
    from prelim.networks.connectors.mlp import MLPConnector

    return MLPConnector(**dimensions)


def connector_section(shapes: Shapes) -> Section:
    """Section `connector` of model.yaml without the activation."""
    layers = sum(re.fullmatch(r"connector\.linear_\d+\.weight", key) is not None for key in shapes)
    out_width, in_width = shapes["connector.linear_1.weight"]
    return {
        "in_width": in_width,
        "out_width": out_width,
        **({} if layers == 2 else {"layers": layers}),
        "bias": "connector.linear_1.bias" in shapes,
    }


def projector_activation(facts: Facts) -> Any:
    """The activation between the layers of a projector. Raises ArchiveError if it is not supported."""
    from prelim.networks.connectors.mlp import ACTIVATIONS

    activation = facts.value("connector.activation", "gelu", stored=facts.config.get("projector_hidden_act"))
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ArchiveError(f"config.json: projector_hidden_act is {activation!r}; supported: {', '.join(ACTIVATIONS)}")
    return activation


def image_token_id(facts: Facts, published: int, vocab_size: int) -> Any:
    """The token that a prompt has for each token of an image. Raises ArchiveError if it is not an id."""
    named = (facts.config.get(name) for name in ("image_token_index", "image_token_id"))
    stored = next((value for value in named if value is not None), None)
    token_id = facts.value("decoder.image_token_id", published, stored=stored)
    if not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id < vocab_size:
        raise ArchiveError(f"image_token_index is {token_id!r}; allowed: the id of a token, 0 to {vocab_size - 1}")
    return token_id


def unused(shapes: Shapes, config: Mapping[str, Any], setting: str = "vision_feature_layer") -> dict[str, str]:
    """Layers after the last one that is used, which a setting names; how many there are depends on the tower."""
    return towers.unused_layers(towers.count_layers(shapes), _feature_layer(config, setting), setting)


def _feature_layer(config: Mapping[str, Any], setting: str = "vision_feature_layer") -> Any:
    stored = config.get(setting)
    return FEATURE_LAYER if stored is None else stored


_KNOWN = (
    *("text_config", "vision_config", "quantization_config", "image_token_index", "image_token_id", "image_seq_length"),
    *("projector_hidden_act", "multimodal_projector_bias", "vision_feature_layer", "vision_feature_select_strategy"),
    *("tie_word_embeddings", "ignore_index", "vocab_size", "hidden_size"),
)
"""Settings of config.json outside of its sections."""


def text_section(
    shapes: Shapes, facts: Facts, published: Mapping[str, Any], token_id: int, known: Collection[str] = ()
) -> Section:
    """Section `decoder` of model.yaml, after all settings of config.json outside of its sections are checked.

    published : the published model's values of what the shapes do not show
    token_id  : of an image in the published model
    known     : further settings outside of the sections, which are read elsewhere

    Raises ArchiveError for a setting that is not understood, or contradicts the weights.
    """
    config = facts.config
    # Layers of the tower have names that layers of a Phi have, too.
    own_shapes = {key: shape for key, shape in shapes.items() if key.startswith("decoder.")}
    check_known("", config, {*_KNOWN, *known})
    check_visible("", config, {"multimodal_projector_bias": "connector.linear_1.bias" in shapes})
    text = {**(config.get("text_config") or {})}
    if text.get("model_type", "llama") in llama.MODEL_TYPES:
        check_known("text_config.", text, llama.known_settings())
        check_visible("text_config.", text, {"vocab_size": shapes["decoder.body.embed_tokens.weight"][0]})
        llama.check_layers("text_config.", own_shapes, text)
    whole, own = config.get("tie_word_embeddings"), text.get("tie_word_embeddings")
    if None not in (whole, own) and whole != own:
        raise ArchiveError(
            f"config.json: tie_word_embeddings is {whole!r}, and {own!r} in text_config; they must agree"
        )
    if text and whole is not None:
        text["tie_word_embeddings"] = whole
    section = llama.decoder_section(own_shapes, facts, published, text)
    return {**section, "image_token_id": image_token_id(facts, token_id, section["vocab_size"])}


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    config = facts.config
    stored = config.get("vision_config") or {}
    layers = towers.count_layers(shapes)
    if stored:
        towers.check_layers(stored, layers, _feature_layer(config))
    layer = facts.value("vision.feature_layer", [FEATURE_LAYER], stored=config.get("vision_feature_layer"))
    # Layers after the last one that is used are not among our weights.
    used = towers.used_layers(stored.get("num_hidden_layers") or layers + 1, layer)
    vision = towers.tower_section(shapes, facts, stored, VISION, [min(index, layers) for index in used])
    return {
        "vision": vision,
        "connector": {
            **connector_section(shapes),
            "activation": projector_activation(facts),
        },
        "decoder": text_section(shapes, facts, VICUNA, IMAGE_TOKEN),
        "preprocess": read_processor(vision["image_size"], PREPROCESS, facts, classes=OF_TOWERS),
    }


def _layout(weights: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Phi's own head has a bias, and that of a LLaVA has none."""
    kind = (facts.config.get("text_config") or {}).get("model_type")
    head = weights.get("decoder.lm_head.weight")
    if kind != "phi" or head is None or "decoder.lm_head.bias" in weights:
        return dict(weights)
    return {**weights, "decoder.lm_head.bias": torch.zeros(head.shape[0])}


ARCHITECTURE = Architecture(
    vision=towers.build_tower,
    connector=build_connector,
    published=Published(
        keys=KEYS,
        theirs=THEIRS,
        ignored={
            **llama.IGNORED,
            **towers.IGNORED,
            **towers.LAST_NORM,
        },
        ignored_in=unused,
        layout=_layout,
        defaults={
            "licence": "GAP",
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
        tokenizer="transformers",
        origin="LLaVA 1.5 (Liu et al., 2024) in the form of transformers' LlavaForConditionalGeneration",
        size={
            "vision": {},
            "connector": {"in_width": 1024, "out_width": 4096},
            "decoder": {**llama.SEVEN_BILLION, "vocab_size": VOCABULARY},
        },
        model_types=("llava",),
        whole_config=True,
        vocabulary=VOCABULARY,
        fixed=("An image token in the text of a request is plain text; the original replaced it by the image.",),
    ),
)
