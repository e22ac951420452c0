"""Keys and dimensions shared by the systems with a Llama decoder."""

from prelim.networks.architectures.architecture import Section, Shapes

KEYS = ((r"^model\.", "decoder.body."), (r"^lm_head\.", "decoder.lm_head."))
"""Key of LlamaForCausalLM in `transformers` -> our key."""

IGNORED = {r"rotary_emb\.inv_freq$": "computed from the configuration; stored only by old versions of transformers"}

CONFIG = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "rope_theta",
    "rope_scaling",
    "hidden_act",
    "attention_bias",
    "mlp_bias",
)
"""Settings in config.json that cannot be inferred from the shapes of the weights."""


def decoder_section(shapes: Shapes, *, max_positions: int, heads: int = 32, rms_norm_eps: float = 1e-5) -> Section:
    """Section `decoder` of model.yaml for a checkpoint under our keys.

    max_positions, heads, rms_norm_eps : of the published model; cannot be inferred from the shapes
    """
    vocab_size, width = shapes["decoder.body.embed_tokens.weight"]
    key_width = shapes["decoder.body.layers.0.self_attn.k_proj.weight"][0]
    # Without grouped heads this is omitted, because config.json may change the number of heads.
    shared = {} if key_width == width else {"num_key_value_heads": key_width * heads // width}
    return {
        "kind": "transformers",
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": shapes["decoder.body.layers.0.mlp.gate_proj.weight"][0],
        "num_hidden_layers": sum(name.endswith(".mlp.gate_proj.weight") for name in shapes),
        "num_attention_heads": heads,
        **shared,
        "max_position_embeddings": max_positions,
        "rms_norm_eps": rms_norm_eps,
        "tie_word_embeddings": "decoder.lm_head.weight" not in shapes,
    }
