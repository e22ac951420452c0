"""LLaVA-Med 1.5: CLIP ViT-L/14, two linear layers and Mistral, in the form of LLaVA's own code, not of transformers'.

Published size: 336 px, 576 image tokens of width 1024 from the layer before the last, Mistral-7B.

Source: Li et al., "LLaVA-Med: Training a Large Language-and-Vision Assistant for Biomedicine in One Day", NeurIPS 2023.
"""

from collections.abc import Mapping
from functools import partial

from prelim.errors import ArchiveError
from prelim.networks.architectures import llama, llava, llava_code, towers
from prelim.networks.architectures.architecture import Architecture, Published, Section, Shapes
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.image_processor import OF_TOWERS, read_processor

PREPROCESS = {**llava.PREPROCESS, "resize": "pad_mean"}
MISTRAL = {**llama.PUBLISHED, "model_type": "mistral", "rope_theta": 1e6, "max_position_embeddings": 32768}

_RESIZES = {"pad": "pad_mean", None: "shortest_edge"}
"""image_aspect_ratio -> `resize` of model.yaml."""


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    config = facts.config
    llava_code.check_settings(shapes, config)
    layer = llava_code.feature_layer(towers.count_layers(shapes), facts)
    vision = towers.tower_section(shapes, facts, {}, llava.VISION, [layer])
    text = {**config, "model_type": "mistral"} if config else {}
    llama.check_layers("", shapes, text)
    aspect = config.get("image_aspect_ratio", "pad")
    if aspect not in _RESIZES:
        raise ArchiveError(f"config.json: image_aspect_ratio is {aspect!r}; supported: 'pad', null")
    return {
        "vision": vision,
        "connector": llava_code.connector_section(shapes, config),
        "decoder": llama.decoder_section(shapes, facts, MISTRAL, text),
        "preprocess": {
            **read_processor(vision["image_size"], PREPROCESS, facts, classes=OF_TOWERS),
            "resize": _RESIZES[aspect],
        },
    }


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
            (r"^connector\.linear_(\d+)\.", llava_code.numbered),
            *llama.THEIRS,
        ),
        ignored={**llama.IGNORED, **towers.IGNORED, **towers.LAST_NORM},
        ignored_in=partial(llava.unused, setting=llava_code.FEATURE_LAYER),
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
