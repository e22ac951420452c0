"""BLIP for captions: a ViT and a BERT with cross-attention (BlipForConditionalGeneration of transformers).

Published sizes: BLIP-base, and BLIP-large with a wider vision transformer, both at 384 pixels. The prompt is the
beginning of the caption, and penalties count it, as in the original. generation_config.json is read, although
transformers itself goes by the defaults of its text decoder.

Source: Li et al., "BLIP: Bootstrapping Language-Image Pre-training", ICML 2022.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import CHEST_RADIOGRAPHS, Architecture, Published, Section, Shapes
from prelim.networks.architectures.encoder_decoder import Projection, complete_head
from prelim.networks.architectures.encoder_decoder_settings import (
    BLIP_TEXT,
    BLIP_VISION,
    check_settings,
    read_part,
    read_sides,
)
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.image_processor import BLIP, read_processor

PREPROCESS = {
    "size": 384,
    "resize": "stretch",
    "interpolation": "bicubic",
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}
_TRAINING = (
    *("text_config", "vision_config", "projection_dim", "logit_scale_init_value", "image_text_hidden_size"),
    "label_smoothing",
)
_TYPES = "decoder.body.embeddings.token_type_embeddings.weight"


def _vision(**dimensions: Any) -> nn.Module:
    # Imported here because `transformers` takes seconds to import.
    from prelim.networks.vision.transformers_encoder import TransformersEncoder

    return TransformersEncoder(**dimensions)


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    if not facts.config:
        raise ArchiveError("this system needs the config.json of the checkpoint; give the whole folder")
    check_settings("", facts.config, _TRAINING)
    kind, vision = read_part("vision_config", "vision", BLIP_VISION, facts, shapes)
    _, text = read_part("text_config", "decoder", BLIP_TEXT, facts, shapes)
    vision |= read_sides("vision_config", vision)
    text["tie_word_embeddings"] = _tied(facts)
    width, heads, image_width = text["hidden_size"], text["num_attention_heads"], vision["hidden_size"]
    if width % heads:
        raise ArchiveError(f"config.json: text_config.num_attention_heads is {heads}; the width is {width}")
    return {
        "vision": {"model_type": kind, **vision},
        "connector": {"in_width": image_width, "out_width": image_width},
        "decoder": {
            "kind": "transformers",
            "model_type": "bert",
            "add_cross_attention": True,
            "type_vocab_size": 1,
            **({} if image_width == width else {"cross_attention_hidden_size": image_width}),
            **text,
        },
        "preprocess": read_processor(vision["image_size"], PREPROCESS, facts, classes=BLIP, crop=False),
    }


def _tied(facts: Facts) -> bool:
    """Whether tokens are scored by their embeddings: transformers goes by the setting of the whole."""
    return facts.config.get("tie_word_embeddings") is not False


def _layout(weights: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Complete tied weights, and add types of tokens, which BLIP's BERT does not have. Raises as `complete_head`."""
    ours = complete_head(weights, "bert", tied=_tied(facts))
    words = ours.get("decoder.body.embeddings.word_embeddings.weight")
    return ours if words is None else {**ours, _TYPES: torch.zeros(1, words.shape[1], dtype=words.dtype)}


ARCHITECTURE = Architecture(
    vision=_vision,
    connector=Projection,
    published=Published(
        keys=(
            (r"^vision_model\.", "vision.body."),
            (r"^text_decoder\.bert\.", "decoder.body."),
            (r"^text_decoder\.cls\.predictions\.transform\.", "decoder.transform."),
            (r"^text_decoder\.cls\.predictions\.decoder\.", "decoder.lm_head."),
            (r"^text_decoder\.cls\.predictions\.bias$", "decoder.lm_bias"),
        ),
        theirs=(
            (r"^vision\.body\.", "vision_model."),
            (r"^decoder\.body\.", "text_decoder.bert."),
            (r"^decoder\.transform\.", "text_decoder.cls.predictions.transform."),
            (r"^decoder\.lm_head\.", "text_decoder.cls.predictions.decoder."),
            (r"^decoder\.lm_bias$", "text_decoder.cls.predictions.bias"),
        ),
        ignored={
            r"\.position_ids$": "indices, which are computed",
            r"^text_decoder\.bert\.pooler\.": "pooling layer, which is not used for texts",
        },
        defaults={
            "licence": "GAP",
            "tokenizer": {"bos_token_id": 30522, "eos_token_id": 102, "pad_token_id": 0},
            "input": {"accepts": CHEST_RADIOGRAPHS},
            "preprocess": PREPROCESS,
            "generation": {"max_new_tokens": 128},
            "prompt": {"bos_token_id": 30522, "max_tokens": 128},
        },
        dimensions=_dimensions,
        layout=_layout,
        tokenizer="encoder_decoder",
        origin="BLIP (Li et al., 2022) in the form of transformers' BlipForConditionalGeneration",
        size={
            "vision": {"model_type": "blip_vision_model"},
            "connector": {"in_width": 768, "out_width": 768},
            "decoder": {
                "kind": "transformers",
                "model_type": "bert",
                "add_cross_attention": True,
                "type_vocab_size": 1,
                "vocab_size": 30524,
            },
        },
        model_types=("blip",),
        whole_config=True,
        ends_by="sep_token_id",
        added_tokens=("[DEC]", "[ENC]"),
        structure=("The report does not repeat the prompt; the original's captions begin with it.",),
    ),
)
