"""MAIRA-2: Rad-DINO (DINOv2 ViT-B/14), four linear layers and Vicuna-7B (Maira2ForConditionalGeneration).

Published size: 518 px, 1,369 image tokens of width 768 from the last layer and its norm, 32,207 words. The frontal
image of the study, its lateral one and the frontal one of a study before, in that order.

Source: Bannur et al., "MAIRA-2: Grounded Radiology Report Generation", 2024.
"""

import re
from collections.abc import Mapping

from prelim.errors import ArchiveError
from prelim.networks.architectures import llama, llava, towers
from prelim.networks.architectures.architecture import CHEST_RADIOGRAPHS, Architecture, Published, Section, Shapes
from prelim.networks.architectures.facts import Facts
from prelim.networks.architectures.image_processor import OF_TOWERS, read_processor

RAD_DINO = {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
VICUNA = {**llama.PUBLISHED, "max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 1.5}}
VOCABULARY, IMAGE_TOKEN = 32207, 32204
PREPROCESS = {
    "size": 518,
    "resize": "shortest_edge",
    "interpolation": "bicubic",
    "crop": "floor",
    "full_range": True,
    "mean": [0.5307] * 3,
    "std": [0.2583] * 3,
}


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    config = facts.config
    stored = {"model_type": towers.DINOV2, **(config.get("vision_config") or {})}
    if stored["model_type"] != towers.DINOV2:
        raise ArchiveError(f"config.json has a vision tower of model_type {stored['model_type']!r}; supported: dinov2")
    layers = towers.count_layers(shapes)
    vision = towers.tower_section(
        shapes, facts, stored, RAD_DINO, [_stage(config.get("vision_config") or {}, layers)], final_norm=True
    )
    if config.get("vision_feature_layer", -1) not in (-1, 0):
        raise ArchiveError(f"vision_feature_layer is {config['vision_feature_layer']!r}; supported: -1, the only stage")
    connector = llava.connector_section(shapes)
    count = config.get("projector_n_layers")
    if count is not None and count != connector.get("layers", 2):
        raise ArchiveError(f"projector_n_layers is {count!r}, but the weights have {connector.get('layers', 2)}")
    return {
        "vision": vision,
        "connector": {**connector, "activation": llava.projector_activation(facts)},
        "decoder": llava.text_section(shapes, facts, VICUNA, IMAGE_TOKEN, ("projector_n_layers",)),
        "preprocess": read_processor(vision["image_size"], PREPROCESS, facts, classes=OF_TOWERS),
    }


def _stage(stored: Section, layers: int) -> int:
    """The layer of the only feature map. Raises ArchiveError for several, and for maps that are not used as tokens."""
    if stored.get("reshape_hidden_states", False) or not stored.get("apply_layernorm", True):
        raise ArchiveError(
            "vision_config has reshape_hidden_states true or apply_layernorm false; supported: false and true"
        )
    count = stored.get("num_hidden_layers", towers.LAYERS) if stored else layers
    indices = stored.get("out_indices")
    stages = stored.get("out_features") or [f"stage{index}" for index in indices or [count]]
    if not isinstance(stages, list) or len(stages) != 1 or stages[0] not in [f"stage{i}" for i in range(1, layers + 1)]:
        raise ArchiveError(f"vision_config.out_features is {stages!r}; supported: one stage of stage1 to stage{layers}")
    stage = int(stages[0].removeprefix("stage"))
    if indices not in (None, [stage]):
        raise ArchiveError(f"vision_config.out_indices is {indices!r}; expected [{stage}], as out_features says")
    if stored:
        towers.check_layers(stored, stage, stage)
    return stage


def _unused(shapes: Shapes, config: Section) -> dict[str, str]:
    layers = towers.count_layers(shapes)
    return towers.unused_layers(layers, _stage(config.get("vision_config") or {}, layers)) if layers else {}


def _numbered(found: re.Match[str]) -> str:
    return f"multi_modal_projector.layers.{llava.numbered_layer(found)}"


ARCHITECTURE = Architecture(
    vision=towers.build_tower,
    connector=llava.build_connector,
    published=Published(
        keys=((r"^(?:model\.)?multi_modal_projector\.layers\.(\d+)\.", llava.connector_layer), *llava.KEYS),
        theirs=((r"^connector\.linear_(\d+)\.", _numbered), *llava.THEIRS),
        ignored={**llama.IGNORED, **towers.IGNORED},
        ignored_in=_unused,
        defaults={
            "licence": "Microsoft Research License; research only (microsoft/maira-2); Llama 2 Community License "
            "(Vicuna-7B v1.5)",
            "tokenizer": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
            "input": {"accepts": CHEST_RADIOGRAPHS},
            "preprocess": PREPROCESS,
            "generation": {"max_new_tokens": 450},
            "prompt": {
                "bos_token_id": 1,
                "after": " {prompt}",
                "default": "Provide a description of the findings in the radiology study in comparison to the prior "
                "frontal image.",
                "max_tokens": 1024,
                "accepts": {
                    "indication": " INDICATION: {indication}",
                    "technique": " TECHNIQUE: {technique}",
                    "comparison": " COMPARISON: {comparison}",
                },
                "missing": "N/A",
                "views": {
                    "frontal": "Given the current frontal image only{frontal}",
                    "frontal+lateral": "Given the current frontal image{frontal} and the current lateral image"
                    "{lateral}",
                    "frontal+prior": "Given the current frontal image{frontal} and the prior frontal image{prior}"
                    " PRIOR_REPORT: {prior_report}",
                    "frontal+lateral+prior": "Given the current frontal image{frontal} the current lateral image"
                    "{lateral} and the prior frontal image{prior} PRIOR_REPORT: {prior_report}",
                },
            },
        },
        dimensions=_dimensions,
        tokenizer="transformers",
        origin="MAIRA-2 (Bannur et al., 2024), microsoft/maira-2",
        size={
            "vision": {
                "model_type": towers.DINOV2,
                "image_size": 518,
                "width": 768,
                "layers": 12,
                "heads": 12,
                "feedforward": 3072,
                "features": [12],
                "final_norm": True,
            },
            "connector": {"in_width": 768, "out_width": 4096, "layers": 4},
            "decoder": {**llama.SEVEN_BILLION, "vocab_size": VOCABULARY},
        },
        model_types=("maira2",),
        own_code=(
            "configuration_maira2.Maira2Config",
            "modeling_maira2.Maira2ForConditionalGeneration",
            "processing_maira2.Maira2Processor",
        ),
        whole_config=True,
        vocabulary=VOCABULARY,
    ),
)
