"""How causal language models of `transformers` become a `CausalLMDecoder`: its dimensions, and where its weights are.

What a decoder for serving need not know is folded into its weights here: RMS norms with a weight of 1 + w, scores of
attention that are divided by another number than the root of a head's width, rotary positions of a part of each head.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prelim.decoders.causal_lm import ACTIVATIONS as SERVED_ACTIVATIONS
from prelim.decoders.causal_lm import CausalLMConfig
from prelim.decoders.weights_file import LazyTensor

BIOGPT_OFFSET = 2
"""Number of unused rows at the start of BioGPT's position table."""

FIXED_ROPE = ("default", "linear", "llama3", "yarn")
"""Types of rotary positions whose frequencies do not depend on the length of the text."""

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
"""Names of transformers -> names of `CausalLMConfig`, where they differ."""


@dataclass(frozen=True)
class WeightSource:
    """Where a weight comes from.

    keys   : of the weights whose rows it joins
    change : what is done with these; None: nothing
    """

    keys: Sequence[str]
    change: Callable[[Tensor], Tensor] | None = None

    def read(self, state: Mapping[str, Tensor]) -> Tensor | LazyTensor:
        """The weight, which is made when it is written if it is not there as it is."""
        parts = [state[key] for key in self.keys]
        if len(parts) == 1 and self.change is None:
            return parts[0]
        shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
        made = torch.empty(shape, dtype=parts[0].dtype, device="meta")
        made = made if self.change is None else self.change(made)
        return LazyTensor(tuple(made.shape), made.dtype, partial(_join, parts, self.change))


def _join(parts: Sequence[Tensor], change: Callable[[Tensor], Tensor] | None) -> Tensor:
    joined = torch.cat(list(parts))
    return joined if change is None else change(joined)


WeightSources = dict[str, WeightSource]
"""By our keys."""

Names = Mapping[str, Sequence[str]]
"""Our name of a layer -> those of `transformers`, joined."""


def sources(config: Any) -> tuple[CausalLMConfig, WeightSources]:
    """Dimensions of the decoder, without those of its rotary positions, and the sources of its weights.

    config : of the model in `transformers`

    Raises ValueError for an unsupported model type, and for a setting that is not supported.
    """
    if config.model_type not in _SERVED:
        raise ValueError(f"model_type {config.model_type!r} cannot be served; known: {', '.join(_SERVED)}")
    return _SERVED[config.model_type](config)


def rotary(embedding: Any) -> dict[str, tuple[Tensor, float]]:
    """Frequencies, shape (turning half of a head,), and the factor of sines and cosines, by kind of layer.

    embedding : the module `rotary_emb` of `transformers`; without kinds of layers, "full_attention" is the only one

    Raises ValueError for a type of rotary positions that depends on the length of the text.
    """
    kinds = embedding.rope_type if isinstance(embedding.rope_type, Mapping) else {"": embedding.rope_type}
    for kind in kinds.values():
        if kind not in FIXED_ROPE:
            raise ValueError(
                f"rope_parameters (rope_scaling in older files) has rope_type {kind!r}; known: {', '.join(FIXED_ROPE)}"
            )
    if "" in kinds:
        return {"full_attention": (embedding.inv_freq, float(embedding.attention_scaling))}
    return {
        kind: (getattr(embedding, f"{kind}_inv_freq"), float(getattr(embedding, f"{kind}_attention_scaling")))
        for kind in kinds
    }


def with_rotary(config: CausalLMConfig, embedding: Any) -> tuple[CausalLMConfig, dict[str, Tensor]]:
    """The dimensions with those of rotary positions, and their frequencies by our keys. Raises ValueError as `rotary`.

    Where a part of each head turns, the rest does not: its frequencies are zero.
    """
    tables = rotary(embedding)
    frequencies, scale = tables.get("full_attention") or tables["sliding_attention"]
    if any(other != scale for _, other in tables.values()):
        raise ValueError("attention factors of rotary positions that differ by layer cannot be served")
    half = (config.head_width or config.width // config.heads) // 2
    still = (0, max(half - len(frequencies), 0))
    weights = {"inverse_frequencies": torch.nn.functional.pad(frequencies, still)}
    if len(tables) > 1:
        weights["window_frequencies"] = torch.nn.functional.pad(tables["sliding_attention"][0], still)
    return replace(config, rotary_scale=scale, window_rotary=len(tables) > 1), weights


def rotary_sections(config: Any) -> tuple[int, ...]:
    """How many frequencies turn by time, rows and columns; empty where a token's position is that in the text."""
    if config.model_type != "qwen2_5_vl_text":
        return ()
    return tuple(config.rope_parameters.get("mrope_section", (16, 24, 24)))


def _whole_norm(factor: float, weight: Tensor) -> Tensor:
    """The weight of an RMS norm that multiplies with 1 + weight, times a factor; 1 + weight needs 32 bits."""
    return (1 + weight.float()) * factor


def _turning_first(config: CausalLMConfig, turning: int, heads: int, rows: Tensor) -> Tensor:
    """Order the rows of the first `heads` heads so that pairs which turn are half a head apart.

    turning : numbers of each head that turn: the first of them, in pairs that are half as many apart
    rows    : Tensor, shape (heads * head_width or more, ...)
    """
    width = config.head_width or config.width // config.heads
    first, second = torch.arange(turning // 2), torch.arange(turning // 2, turning)
    still = torch.arange(turning, width)
    middle = width // 2 - turning // 2
    order = torch.cat([first, still[:middle], second, still[middle:]]).to(rows.device)
    turned = rows[: heads * width].view(heads, width, *rows.shape[1:])[:, order].flatten(0, 1)
    return torch.cat([turned, rows[heads * width :]])


def _layer_sources(
    names: Names, leaf: str, layers: int, change: Callable[[Tensor], Tensor] | None = None, prefix: str = "layers"
) -> WeightSources:
    return {
        f"layers.{i}.{ours}.{leaf}": WeightSource([f"{prefix}.{i}.{theirs}.{leaf}" for theirs in parts], change)
        for i in range(layers)
        for ours, parts in names.items()
    }


def _activation(config: Any, setting: str = "hidden_act") -> str:
    """Our name of an activation, by the setting that names it. Raises ValueError if it is not served."""
    name = getattr(config, setting)
    ours = ACTIVATIONS.get(name, name)
    if ours not in SERVED_ACTIVATIONS:
        raise ValueError(f"{setting} is {name!r}; supported: {', '.join([*ACTIVATIONS, *SERVED_ACTIVATIONS])}")
    return ours


def _refuse(config: Any, allowed: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting with another value than the one that is served."""
    for name, value in allowed.items():
        if getattr(config, name, value) != value:
            raise ValueError(f"{name} is {getattr(config, name)!r}; supported: {value!r}")


def _sizes(c: Any) -> dict[str, Any]:
    """Dimensions that every configuration has under the same names."""
    return {
        "vocab_size": c.vocab_size,
        "width": c.hidden_size,
        "layers": c.num_hidden_layers,
        "heads": c.num_attention_heads,
        "max_positions": c.max_position_embeddings,
    }


def _head_width(c: Any) -> int:
    width: int = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    return width


def _biogpt(c: Any) -> tuple[CausalLMConfig, WeightSources]:
    config = CausalLMConfig(
        **_sizes(c),
        feedforward=c.intermediate_size,
        norm="layer_norm",
        norm_eps=1e-5,
        activation=_activation(c),
        embedding_scale=c.hidden_size**0.5 if c.scale_embedding else 1.0,
        position_offset=BIOGPT_OFFSET,
        attention_bias=True,
        out_bias=True,
        feedforward_bias=True,
        tied=c.tie_word_embeddings,
    )
    names = {
        "norm1": ["self_attn_layer_norm"],
        "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "out": ["self_attn.out_proj"],
        "norm2": ["final_layer_norm"],
        "up": ["fc1"],
        "down": ["fc2"],
    }
    found = {
        "words.weight": WeightSource(["embed_tokens.weight"]),
        "positions.weight": WeightSource(["embed_positions.weight"]),
    }
    for leaf in ("weight", "bias"):
        found[f"norm.{leaf}"] = WeightSource([f"layer_norm.{leaf}"])
        found |= _layer_sources(names, leaf, config.layers)
    return config, found


def _gpt2(c: Any) -> tuple[CausalLMConfig, WeightSources]:
    _refuse(c, {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False})
    config = CausalLMConfig(
        **_sizes(c),
        feedforward=c.n_inner or 4 * c.hidden_size,
        norm_eps=c.layer_norm_epsilon,
        activation=_activation(c, "activation_function"),
        position_offset=0,
        attention_bias=True,
        out_bias=True,
        feedforward_bias=True,
        tied=c.tie_word_embeddings,
    )
    norms = {"norm1": ["ln_1"], "norm2": ["ln_2"]}
    products = {"qkv": ["attn.c_attn"], "out": ["attn.c_proj"], "up": ["mlp.c_fc"], "down": ["mlp.c_proj"]}
    found = {"words.weight": WeightSource(["wte.weight"]), "positions.weight": WeightSource(["wpe.weight"])}
    for leaf in ("weight", "bias"):
        found[f"norm.{leaf}"] = WeightSource([f"ln_f.{leaf}"])
        found |= _layer_sources(norms, leaf, config.layers, prefix="h")
        # Its matrices are (inputs, outputs).
        found |= _layer_sources(products, leaf, config.layers, torch.t if leaf == "weight" else None, prefix="h")
    return config, found


def _phi(c: Any) -> tuple[CausalLMConfig, WeightSources]:
    # Its head has a bias of its own, also where words are tied.
    _refuse(c, {"tie_word_embeddings": False})
    width = _head_width(c)
    config = CausalLMConfig(
        **_sizes(c),
        kv_heads=c.num_key_value_heads,
        head_width=width,
        feedforward=c.intermediate_size,
        norm_eps=c.layer_norm_eps,
        activation=_activation(c),
        attention_bias=True,
        out_bias=True,
        feedforward_bias=True,
        head_bias=True,
        parallel=True,
        query_key_norms=c.qk_layernorm,
    )
    names = {
        "norm1": ["input_layernorm"],
        "out": ["self_attn.dense"],
        "up": ["mlp.fc1"],
        "down": ["mlp.fc2"],
    }
    qkv = {"qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]}
    norms = {"query_norm": ["self_attn.q_layernorm"], "key_norm": ["self_attn.k_layernorm"]}
    turning = int(width * c.rope_parameters["partial_rotary_factor"])
    found = {"words.weight": WeightSource(["embed_tokens.weight"])}
    for leaf in ("weight", "bias"):
        found[f"norm.{leaf}"] = WeightSource([f"final_layernorm.{leaf}"])
        found |= _layer_sources(names, leaf, config.layers)
        heads = config.heads + c.num_key_value_heads
        found |= _layer_sources(qkv, leaf, config.layers, partial(_turning_first, config, turning, heads))
        if c.qk_layernorm:
            found |= _layer_sources(norms, leaf, config.layers, partial(_turning_first, config, turning, 1))
    return config, found


_LLAMA: Names = {
    "norm1": ["input_layernorm"],
    "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    "out": ["self_attn.o_proj"],
    "norm2": ["post_attention_layernorm"],
    "up": ["mlp.gate_proj", "mlp.up_proj"],
    "down": ["mlp.down_proj"],
}
_HEAD_NORMS: Names = {"query_norm": ["self_attn.q_norm"], "key_norm": ["self_attn.k_norm"]}


def _llama(
    c: Any, biased: Mapping[str, bool], activation: str | None = None, **parts: Any
) -> tuple[CausalLMConfig, WeightSources]:
    """Llama, and what differs from it in its biases and in what `parts` of `CausalLMConfig` say.

    biased     : whether the layers qkv, out, up and down have a bias
    activation : None: that of the setting hidden_act
    """
    config = CausalLMConfig(
        **_sizes(c),
        kv_heads=c.num_key_value_heads,
        head_width=_head_width(c),
        feedforward=c.intermediate_size,
        norm="rms_norm",
        norm_eps=c.rms_norm_eps,
        gated=True,
        attention_bias=biased["qkv"],
        out_bias=biased["out"],
        feedforward_bias=biased["up"],
        tied=c.tie_word_embeddings,
        activation=activation or _activation(c),
        **parts,
    )
    found = {"words.weight": WeightSource(["embed_tokens.weight"]), "norm.weight": WeightSource(["norm.weight"])}
    found |= _layer_sources(_LLAMA, "weight", config.layers)
    return config, found | _layer_sources({k: v for k, v in _LLAMA.items() if biased.get(k)}, "bias", config.layers)


def _window(c: Any) -> dict[str, Any]:
    """Dimensions of a sliding window, of the networks that have one: a Llama ignores these settings."""
    window = c.sliding_window
    kinds = getattr(c, "layer_types", None) or ["sliding_attention"] * c.num_hidden_layers
    layers = [layer for layer, kind in enumerate(kinds) if kind == "sliding_attention"]
    if unknown := sorted(set(kinds) - {"sliding_attention", "full_attention"}):
        raise ValueError(f"layer_types has {unknown[0]!r}; supported: full_attention, sliding_attention")
    return {} if not window or not layers else {"window": window, "window_layers": layers}


def _qwen3(c: Any) -> tuple[CausalLMConfig, WeightSources]:
    config, found = _llama(c, _biases(c), query_key_norms=True, **_window(c))
    return config, found | _layer_sources(_HEAD_NORMS, "weight", config.layers)


def _qwen2_5_vl(c: Any) -> tuple[CausalLMConfig, WeightSources]:
    _refuse(c, {"use_sliding_window": False, "layer_types": ["full_attention"] * c.num_hidden_layers})
    return _llama(c, {"qkv": True, "out": False, "up": False}, rotary_sections=rotary_sections(c))


def _gemma3(c: Any) -> tuple[CausalLMConfig, WeightSources]:
    _refuse(c, {"final_logit_softcapping": None, "attn_logit_softcapping": None, "use_bidirectional_attention": False})
    config, found = _llama(
        c,
        _biases(c),
        activation=_activation(c, "hidden_activation"),
        embedding_scale=c.hidden_size**0.5,
        query_key_norms=True,
        post_norms=True,
        **_window(c),
    )
    whole = partial(_whole_norm, 1.0)
    norms = {
        "norm1": ["input_layernorm"],
        "post_norm1": ["post_attention_layernorm"],
        "norm2": ["pre_feedforward_layernorm"],
        "post_norm2": ["post_feedforward_layernorm"],
        "key_norm": ["self_attn.k_norm"],
    }
    # Scores are divided by the root of this number, and not of the head's width.
    factor = (c.head_dim / c.query_pre_attn_scalar) ** 0.5
    query = {"query_norm": ["self_attn.q_norm"]}
    return config, {
        **found,
        "norm.weight": WeightSource(["norm.weight"], whole),
        **_layer_sources(norms, "weight", config.layers, whole),
        **_layer_sources(query, "weight", config.layers, partial(_whole_norm, factor)),
    }


def _biases(c: Any) -> dict[str, bool]:
    mlp = getattr(c, "mlp_bias", False)
    return {"qkv": c.attention_bias, "out": c.attention_bias, "up": mlp, "down": mlp}


_SERVED: dict[str, Callable[[Any], tuple[CausalLMConfig, WeightSources]]] = {
    "biogpt": _biogpt,
    "gemma3_text": _gemma3,
    "gpt2": _gpt2,
    "llama": lambda c: _llama(c, _biases(c)),
    "mistral": lambda c: _llama(c, {"qkv": False, "out": False, "up": False}, **_window(c)),
    "phi": _phi,
    "qwen2": lambda c: _llama(c, {"qkv": True, "out": False, "up": False}, **_window(c)),
    "qwen2_5_vl_text": _qwen2_5_vl,
    "qwen3": _qwen3,
}
"""Model type of `transformers` -> dimensions and sources of the equivalent CausalLMDecoder."""
