"""Gemma 3, and MedGemma with it: SigLIP at 896 px, a norm and a matrix, and Gemma 3 (Gemma3ForConditionalGeneration).

Published size: MedGemma 4B, 256 image tokens an image, the means of 4 x 4 patches. The tokens of an image see each
other, also those after them. The sizes come from config.json, which is needed.

Source: Gemma Team, "Gemma 3 Technical Report", 2025; Sellergren et al., "MedGemma Technical Report", 2025.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prelim.decoders.weights_file import LazyTensor, materialize
from prelim.errors import ArchiveError
from prelim.networks.architectures import llava, towers
from prelim.networks.architectures.architecture import Architecture, Published, Section, Shapes
from prelim.networks.architectures.facts import Facts, numbered
from prelim.networks.architectures.image_processor import GEMMA3, read_processor
from prelim.networks.architectures.settings_check import check_known, check_visible, complete_settings

VOCABULARY, IMAGE_TOKEN = 262208, 262144
TEXT = "gemma3_text"
VISION = {"num_attention_heads": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
PREPROCESS = {
    "size": 896,
    "resize": "stretch",
    "interpolation": "bilinear",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
_IMAGE = "<start_of_image>"
_BEFORE, _AFTER = f"\n\n{_IMAGE}", "<end_of_image>\n\n"
"""What the processor puts around the tokens of an image."""

_TEXT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_activation", "max_position_embeddings", "rms_norm_eps"),
    *("query_pre_attn_scalar", "sliding_window", "layer_types", "rope_parameters", "attention_bias"),
    *("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention"),
)
"""Settings of the decoder that change what it computes."""

_OLD_TEXT = ("rope_theta", "rope_local_base_freq", "rope_scaling", "sliding_window_pattern", "_sliding_window_pattern")
"""Names in older files, which transformers converts to some of these."""

_WHOLE = (
    *("text_config", "vision_config", "mm_tokens_per_image", "image_token_index", "image_token_id"),
    *("boi_token_index", "boi_token_id", "eoi_token_index", "eoi_token_id", "quantization_config"),
    "tie_word_embeddings",
)
"""Settings of config.json outside of its sections."""


def _vision(**dimensions: Any) -> nn.Module:
    # Imported here because `transformers` takes seconds to import.
    from prelim.networks.vision.pooled_tower import PooledTower

    return PooledTower(**dimensions)


def _connector(**dimensions: Any) -> nn.Module:
    from prelim.networks.connectors.normed_linear import NormedLinear

    return NormedLinear(**dimensions)


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    config = facts.config
    if not config:
        raise ArchiveError("this system needs the config.json of the checkpoint; give the whole folder")
    stored = {"model_type": towers.SIGLIP, **(config.get("vision_config") or {})}
    if stored["model_type"] != towers.SIGLIP:
        raise ArchiveError(
            f"config.json: vision_config is of model_type {stored['model_type']!r}; supported: {towers.SIGLIP}"
        )
    check_known("", config, _WHOLE)
    # Transformers unties null too.
    if not (tied := config.get("tie_word_embeddings", True)):
        raise ArchiveError(f"config.json: tie_word_embeddings is {tied!r}; supported: True")
    layers = towers.count_layers(shapes)
    if config.get("vision_config"):
        towers.check_layers(stored, layers, -1)
    vision = towers.tower_section(shapes, facts, stored, VISION, [layers], final_norm=True, class_token=True)
    in_width, out_width = shapes["connector.projection.weight"]
    decoder = _decoder(shapes, facts)
    return {
        "vision": {**vision, "tokens_per_side": _tokens_per_side(vision, facts)},
        "connector": {"in_width": in_width, "out_width": out_width, "norm_eps": vision["norm_eps"]},
        "decoder": {
            **decoder,
            "image_token_id": llava.image_token_id(facts, IMAGE_TOKEN, decoder["vocab_size"]),
            "mutual_images": True,
        },
        "preprocess": read_processor(vision["image_size"], PREPROCESS, facts, classes=GEMMA3, crop=False),
    }


def _tokens_per_side(vision: Section, facts: Facts) -> int:
    """Image tokens of a row and of a column. Raises ArchiveError for a number that patches cannot be pooled to."""
    side = vision["image_size"] // vision["patch_size"]
    tokens = facts.value("vision.mm_tokens_per_image", 256, stored=facts.config.get("mm_tokens_per_image"))
    allowed = [count**2 for count in range(1, side + 1) if side % count == 0]
    if tokens not in allowed:
        raise ArchiveError(
            f"config.json: mm_tokens_per_image is {tokens!r}; allowed with {side} patches a side: "
            f"{', '.join(map(str, allowed))}"
        )
    given = facts.preprocessor.get("image_seq_length", tokens)
    if given != tokens:
        raise ArchiveError(
            f"image_seq_length is {given!r} in the processor's settings; config.json has {tokens} tokens"
        )
    return round(tokens**0.5)


def _decoder(shapes: Shapes, facts: Facts) -> Section:
    """Section `decoder` of model.yaml; what config.json lacks is the default of transformers.

    Raises ArchiveError for a setting that is not supported, or contradicts the weights.
    """
    stored = {"model_type": TEXT, **(facts.config.get("text_config") or {})}
    kind = stored.pop("model_type")
    if kind != TEXT:
        raise ArchiveError(f"config.json: text_config is of model_type {kind!r}; supported: {TEXT}")
    check_known("text_config.", stored, (*_TEXT, *_OLD_TEXT, "tie_word_embeddings"))
    given = {name: value for name, value in stored.items() if name in (*_TEXT, *_OLD_TEXT)}
    values = complete_settings(TEXT, "text_config", given, _TEXT)
    check_visible("text_config.", values, _visible(shapes))
    if unknown := sorted({*values["layer_types"]} - {"full_attention", "sliding_attention"}):
        raise ArchiveError(
            f"config.json: text_config.layer_types has {unknown[0]!r}; supported: full_attention, sliding_attention"
        )
    return {
        "kind": "transformers",
        "model_type": TEXT,
        **{
            name: value if value is None else facts.value(f"decoder.{name}", value, stored=value)
            for name, value in values.items()
        },
        "tie_word_embeddings": True,
    }


def _visible(shapes: Shapes) -> dict[str, Any]:
    """Settings of the decoder that the weights show."""
    attention = "decoder.body.layers.0.self_attn."
    rows = {name: shapes[f"{attention}{name}_proj.weight"][0] for name in "qk"}
    vocab_size, width = shapes["decoder.body.embed_tokens.weight"]
    (head_width,) = shapes[f"{attention}q_norm.weight"]
    return {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": shapes["decoder.body.layers.0.mlp.gate_proj.weight"][0],
        "num_hidden_layers": numbered(shapes, ".mlp.gate_proj.weight"),
        "head_dim": head_width,
        "num_attention_heads": rows["q"] // head_width,
        "num_key_value_heads": rows["k"] // head_width,
        "attention_bias": f"{attention}q_proj.bias" in shapes,
    }


def _layout(weights: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """The projector's matrix is stored as (inputs, outputs), and its norm multiplies with 1 + weight."""
    ours = dict(weights)
    changes = {"connector.projection.weight": torch.t, "connector.norm.weight": _whole_norm}
    for key, change in changes.items():
        if key in ours:
            stored = ours[key]
            shape = change(torch.empty(stored.shape, dtype=stored.dtype, device="meta"))
            ours[key] = LazyTensor(tuple(shape.shape), shape.dtype, partial(_changed, stored, change))
    return ours


def _whole_norm(weight: Tensor) -> Tensor:
    return 1 + weight.float()


def _changed(stored: Tensor | LazyTensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    return change(materialize(stored))


ARCHITECTURE = Architecture(
    vision=_vision,
    connector=_connector,
    published=Published(
        keys=(
            *llava.KEYS,
            (r"^connector\.mm_input_projection_weight$", "connector.projection.weight"),
            (r"^connector\.mm_soft_emb_norm\.", "connector.norm."),
        ),
        theirs=(
            (r"^connector\.projection\.weight$", "connector.mm_input_projection_weight"),
            (r"^connector\.norm\.", "connector.mm_soft_emb_norm."),
            *llava.THEIRS,
        ),
        ignored=towers.IGNORED,
        tied={r"(^|\.)lm_head\.weight$": "decoder.body.embed_tokens.weight"},
        defaults={
            "licence": "GAP",
            "tokenizer": {"bos_token_id": 2, "eos_token_id": [1, 106], "pad_token_id": 0},
            "input": {},
            "preprocess": PREPROCESS,
            "generation": {"max_new_tokens": 512},
            "prompt": {
                "bos_token_id": 2,
                "before": f"<start_of_turn>user\n{_BEFORE}",
                "after": f"{_AFTER}{{prompt}}<end_of_turn>\n<start_of_turn>model\n",
                "default": "Describe the findings and the impression of this chest x-ray.",
                "max_tokens": 2048,
                "strip_words": True,
                "max_images": 4,
                "between_images": f"{_AFTER}{_BEFORE}",
            },
        },
        dimensions=_dimensions,
        layout=_layout,
        tokenizer="transformers",
        image_words=(_IMAGE, f"{_BEFORE}{{image}}{_AFTER}"),
        origin="Gemma 3 and MedGemma in the form of transformers' Gemma3ForConditionalGeneration",
        size={
            "vision": {
                "model_type": towers.SIGLIP,
                "image_size": 896,
                "width": 1152,
                "layers": 27,
                "feedforward": 4304,
                "features": [27],
                "class_token": True,
                "final_norm": True,
            },
            "connector": {"in_width": 1152, "out_width": 2560},
            "decoder": {
                "kind": "transformers",
                "model_type": TEXT,
                "vocab_size": VOCABULARY,
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 34,
            },
        },
        model_types=("gemma3",),
        whole_config=True,
        vocabulary=VOCABULARY,
        fixed=("An image token in the text of a request is plain text; the original replaced it by the image.",),
    ),
)
