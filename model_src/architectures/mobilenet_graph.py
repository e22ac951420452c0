"""System 1: MobileNetV3-small, a circular graph layer and a 5-layer transformer decoder (txttyt).

Published size: 224 px, 49 image tokens, width 512, 8 heads, feed-forward 1024, 30,522 word pieces, 2,000
positions: 49,566,298 parameters. The demo model is the same code with smaller dimensions.
"""

from model_src.architectures.architecture import Architecture
from model_src.connectors.graph import GraphConnector
from model_src.vision.mobilenet import MobileNetV3Small


def _connector(width: int, steps: int = 3) -> GraphConnector:
    return GraphConnector(MobileNetV3Small.width, width, steps)


ARCHITECTURE = Architecture(
    vision=MobileNetV3Small,
    connector=_connector,
    checkpoint_keys=(
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
)
