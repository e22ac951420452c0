"""System 1: MobileNetV3-small, a circular graph layer and a 5-layer transformer decoder (txttyt).

Published size: 224 px, 49 image tokens, width 512, 8 heads, feed-forward 1024, 30,522 word pieces, 2,000
positions: 49,566,298 parameters. The demo model is the same code with smaller dimensions and another encoder.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from prelim.networks.architectures.architecture import Architecture, Published, Section, Shapes
from prelim.networks.architectures.facts import Facts, numbered
from prelim.networks.connectors.graph import GraphConnector
from prelim.networks.vision.efficientnet_lite import EfficientNetLite0
from prelim.networks.vision.mobilenet import MobileNetV3Small

HEADS, STEPS = 8, 3
"""Of the decoder's layers and the graph layer; cannot be inferred from the shapes of a checkpoint."""

ENCODERS: Mapping[str, type[nn.Module]] = {
    "mobilenet_v3_small": MobileNetV3Small,
    "efficientnet_lite0": EfficientNetLite0,
}
"""`vision.kind` -> encoder; the first one is that of the published system."""


def _vision(kind: str = "mobilenet_v3_small", **options: Any) -> nn.Module:
    if kind not in ENCODERS:
        raise ValueError(f"vision.kind is {kind!r}; known: {', '.join(ENCODERS)}")
    return ENCODERS[kind](**options)


def _connector(width: int, steps: int = STEPS, in_width: int = MobileNetV3Small.width) -> GraphConnector:
    return GraphConnector(in_width, width, steps)


def _dimensions(shapes: Shapes, facts: Facts) -> Mapping[str, Section]:
    vocab_size, width = shapes["decoder.token_embedding.weight"]
    return {
        "vision": {},
        "connector": {"width": width, "steps": facts.value("connector.steps", STEPS)},
        "decoder": {
            "kind": "cross_attention",
            "vocab_size": vocab_size,
            "width": width,
            "layers": numbered(shapes, ".linear1.weight"),
            "heads": facts.value("decoder.heads", HEADS),
            "feedforward": shapes["decoder.layers.0.linear1.weight"][0],
            "max_positions": shapes["decoder.position_embedding"][-2],
        },
    }


ARCHITECTURE = Architecture(
    vision=_vision,
    connector=_connector,
    published=Published(
        keys=(
            (r"^encoder\.", "vision."),
            (r"^vis_proj\.", "connector.proj."),
            (r"^graph_layer\.msg_linear\.", "connector.message."),
            (r"^embedding\.", "decoder.token_embedding."),
            (r"^pos_encoder$", "decoder.position_embedding"),
            (r"^fc_out\.", "decoder.lm_head."),
            (r"\.self_attn\.", ".self_attention."),
            (r"\.multihead_attn\.", ".cross_attention."),
            (r"\.in_proj_(weight|bias)$", r".in_proj.\1"),
        ),
        theirs=(
            (r"^vision\.", "encoder."),
            (r"^connector\.proj\.", "vis_proj."),
            (r"^connector\.message\.", "graph_layer.msg_linear."),
            (r"^decoder\.token_embedding\.", "embedding."),
            (r"^decoder\.position_embedding$", "pos_encoder"),
            (r"^decoder\.lm_head\.", "fc_out."),
            (r"\.self_attention\.", ".self_attn."),
            (r"\.cross_attention\.", ".multihead_attn."),
            (r"\.in_proj\.(weight|bias)$", r".in_proj_\1"),
        ),
        size={
            "vision": {},
            "connector": {"width": 512},
            "decoder": {
                "kind": "cross_attention",
                "vocab_size": 30522,
                "width": 512,
                "layers": 5,
                "heads": HEADS,
                "feedforward": 1024,
                "max_positions": 2000,
            },
        },
        structure=(
            "a step of the graph layer averages three neighbors on a ring of image tokens, then clips to [-1, 1]",
            "the decoder's layers are post-norm with ReLU, and have no norm after the last one",
        ),
        defaults={
            "licence": "MIT",
            "tokenizer": {"bos_token_id": 101, "eos_token_id": 102, "pad_token_id": 0},
            "input": {"modalities": ["CT", "MR", "CR", "DX", "RG", "US"]},
            "preprocess": {
                "size": 224,
                "resize": "stretch",
                "resize_to": 256,
                "interpolation": "bilinear",
                "mean": [0.485, 0.456, 0.406],
                "std": [0.229, 0.224, 0.225],
            },
            "generation": {"max_new_tokens": 80},
        },
        dimensions=_dimensions,
        tokenizer="bert-base-uncased",
        origin="the script of GitHub's erfanasgharian/txttyt (commit b8ee15d)",
        fixed=(
            "Each report ends at its own end-of-text token; the original stopped only when all rows of a batch "
            "produced it in the same step.",
        ),
    ),
)
