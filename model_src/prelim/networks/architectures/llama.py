"""Keys and dimensions shared by the systems with a Llama-style decoder: Llama, Mistral, Qwen2, Qwen3, Phi."""

from collections.abc import Mapping
from typing import Any

from prelim.errors import ArchiveError
from prelim.networks.architectures.architecture import Renames, Section, Shapes
from prelim.networks.architectures.facts import Facts, numbered
from prelim.networks.architectures.settings_check import check_positive, check_visible

MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "phi")

KEYS: Renames = (
    (r"^model\.(embed_tokens|layers|norm|final_layernorm)\.", r"decoder.body.\1."),
    (r"^lm_head\.", "decoder.lm_head."),
)
"""Key of LlamaForCausalLM in `transformers` -> our key."""

THEIRS: Renames = ((r"^decoder\.body\.", "model."), (r"^decoder\.lm_head\.", "lm_head."))
"""Our key -> key of LlamaForCausalLM."""

IGNORED = {r"rotary_emb\.inv_freq$": "computed from the configuration; stored only by old versions of transformers"}

PUBLISHED: Mapping[str, Any] = {
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
}
"""Llama-2-7B's values of what shapes do not show."""

SEVEN_BILLION: Mapping[str, Any] = {
    "kind": "transformers",
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
"""Section `decoder` of a Llama or Vicuna with 7 billion parameters, without the size of its vocabulary."""

_CONFIG = (
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "rope_theta",
    "rope_scaling",
    "hidden_act",
    "attention_bias",
    "mlp_bias",
    "sliding_window",
    "use_sliding_window",
    "max_window_layers",
    "layer_types",
    "layer_norm_eps",
    "partial_rotary_factor",
    "qk_layernorm",
)
"""Settings in config.json that cannot be inferred from the shapes of the weights; others are computed here."""

_VISIBLE = ("hidden_size", "intermediate_size", "num_hidden_layers")
_BODY = "decoder.body."
_ATTENTION = f"{_BODY}layers.0.self_attn."
_PHI = "mlp.fc1.weight"
"""Of the first half of Phi's feed-forward, which has no gates."""


def decoder_section(
    shapes: Shapes, facts: Facts, published: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> Section:
    """Section `decoder` of model.yaml for a checkpoint under our keys.

    published : the published model's values of what the shapes do not show
    config    : the decoder's config.json; None means `facts.config`

    Raises ArchiveError if config.json and the shapes contradict each other.
    """
    config = facts.config if config is None else config
    if config.get("model_type", "llama") not in MODEL_TYPES:
        raise ArchiveError(
            f"config.json has a language model of model_type {config['model_type']!r}; supported: "
            f"{', '.join(MODEL_TYPES)}"
        )
    vocab_size, width = shapes[f"{_BODY}embed_tokens.weight"]
    first = _first(shapes)
    if first == _PHI and not config:
        raise ArchiveError("these are the weights of a Phi, whose settings are not in them; give its config.json")
    visible = {
        "hidden_size": width,
        "intermediate_size": shapes[f"{_BODY}layers.0.{first}"][0],
        "num_hidden_layers": numbered(shapes, f".{first}"),
    }
    for name in _VISIBLE:
        if config.get(name, visible[name]) != visible[name]:
            raise ArchiveError(
                f"config.json has {name} = {config[name]!r}, but the weights have {visible[name]!r}: they are from "
                "different models; give the config.json of this decoder"
            )
    section = {"kind": "transformers", "vocab_size": vocab_size, **visible}
    if config:
        return {**section, **_from_config(shapes, facts, config)}
    section["model_type"] = facts.value("decoder.model_type", "llama", stored=_visible_type(shapes))
    given = {name: facts.value(f"decoder.{name}", value) for name, value in published.items()}
    tied = "decoder.lm_head.weight" not in shapes
    if tied:
        tied = facts.value("decoder.tie_word_embeddings", True)
    biases = {name: True for name, there in _biased(shapes).items() if there and section["model_type"] == "llama"}
    heads = _heads(shapes, str(section["model_type"]), given["num_attention_heads"], None)
    return {**section, **given, **heads, **biases, "tie_word_embeddings": tied}


def _first(shapes: Shapes) -> str:
    """The first matrix of a feed-forward layer."""
    return _PHI if f"{_BODY}layers.0.{_PHI}" in shapes else "mlp.gate_proj.weight"


def _visible_type(shapes: Shapes) -> str | None:
    """Qwen3 is the only one with norms of its queries, and Qwen2 with a bias in some of the projections."""
    if f"{_ATTENTION}q_norm.weight" in shapes:
        return "qwen3"
    return "qwen2" if f"{_ATTENTION}q_proj.bias" in shapes and f"{_ATTENTION}o_proj.bias" not in shapes else None


_HEAD_DIM_ALONE = ("qwen3",)
"""Those whose `head_dim` has a default of its own, and is not the width of the network divided by the heads."""

_BIASES = {"attention_bias": "self_attn.o_proj", "mlp_bias": "mlp.down_proj"}


def _from_config(shapes: Shapes, facts: Facts, config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says; a value that it lacks is the default of its model type."""
    # Imported here because `transformers` takes seconds to import.
    from transformers import AutoConfig

    model_type = config.get("model_type", "llama")
    default = AutoConfig.for_model(model_type)
    stored = {name: config[name] for name in _CONFIG if config.get(name) is not None}
    check_positive("", stored)
    stored = {name: facts.value(f"decoder.{name}", value, stored=value) for name, value in stored.items()}
    if "sliding_window" in config:
        # Null is not the default.
        stored.setdefault("sliding_window", None)
    heads = config.get("num_attention_heads") or default.num_attention_heads
    heads = facts.value("decoder.num_attention_heads", heads, stored=heads)
    # A Mistral, a Qwen2 and a Phi do not read these.
    biased = {name: there for name, there in _biased(shapes).items() if hasattr(default, name)}
    check_visible("", config, biased)
    tied = config.get("tie_word_embeddings")
    tied = default.tie_word_embeddings if tied is None else tied
    tied = facts.value("decoder.tie_word_embeddings", tied, stored=tied)
    return {
        "model_type": model_type,
        **stored,
        **_heads(shapes, model_type, heads, config.get("head_dim"), config.get("num_key_value_heads")),
        "tie_word_embeddings": tied,
    }


def _biased(shapes: Shapes) -> dict[str, bool]:
    return {name: f"{_BODY}layers.0.{key}.bias" in shapes for name, key in _BIASES.items()}


def _heads(
    shapes: Shapes, model_type: str, heads: int, head_dim: int | None, key_heads: int | None = None
) -> dict[str, int]:
    queries, width = shapes[f"{_ATTENTION}q_proj.weight"]
    keys = shapes[f"{_ATTENTION}k_proj.weight"][0]
    if not isinstance(heads, int) or heads < 1 or queries % heads or (head_dim or queries // heads) * heads != queries:
        raise ArchiveError(
            f"num_attention_heads is {heads}{f' and head_dim {head_dim}' if head_dim else ''}, which does not fit the "
            f"{queries} rows of q_proj; give the decoder's config.json, or --set decoder.num_attention_heads=NUMBER"
        )
    if key_heads not in (None, keys * heads // queries):
        raise ArchiveError(
            f"config.json: num_key_value_heads is {key_heads!r}, but with num_attention_heads {heads} the weights have "
            f"{keys * heads // queries}"
        )
    section = {"num_attention_heads": heads, "num_key_value_heads": keys * heads // queries}
    alone = model_type in _HEAD_DIM_ALONE
    return section if queries == width and not alone else {**section, "head_dim": queries // heads}


def check_layers(where: str, shapes: Shapes, text: Mapping[str, Any]) -> None:
    """Raise ArchiveError if a section does not say how many layers there are, and its model type has another number.

    where : the section of config.json with a point at its end; empty for the file itself
    text  : the section; empty if there is none
    """
    # Imported here because `transformers` takes seconds to import.
    from transformers import AutoConfig

    if text and text.get("num_hidden_layers") is None:
        default = AutoConfig.for_model(text.get("model_type", "llama")).num_hidden_layers
        layers = numbered(shapes, f".{_first(shapes)}")
        check_visible(where, {"num_hidden_layers": default}, {"num_hidden_layers": layers})


def known_settings() -> set[str]:
    """Settings of config.json that are read, or that the shapes of the weights show."""
    heads = ("num_attention_heads", "num_key_value_heads", "head_dim")
    return {*_CONFIG, *_VISIBLE, *heads, "vocab_size", "tie_word_embeddings", "quantization_config"}
