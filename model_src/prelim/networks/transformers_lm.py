"""A causal language model of `transformers` that reads the image as a prefix, for training and import.

The network is the library's, so published checkpoints, adapters and recipes fit it unchanged. `served` converts it to a
`CausalLMDecoder`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from prelim.decoders.causal_lm import CausalLMConfig
from prelim.decoders.teacher_forcing import check_positions, insert_images, join
from prelim.decoders.weights_file import LazyTensor
from prelim.networks.adapters import adapt, join_adapters

BIOGPT_OFFSET = 2
"""Number of unused rows at the start of BioGPT's position table."""

FIXED_ROPE = ("default", "linear", "llama3", "yarn")
"""Types of rotary positions whose frequencies do not depend on the length of the text."""


class TransformersLM(nn.Module):
    """A BioGPT- or Llama-style language model.

    section : the section `decoder` of model.yaml without its `kind`: `model_type` of `transformers`, and the values of
              that model's configuration; optionally `adapter` with its `rank` and the names of the adapted `layers`,
              and `image_token_id` as in `CausalLMConfig`

    Raises ValueError for an unknown model type.
    """

    def __init__(self, section: Mapping[str, Any]) -> None:
        super().__init__()
        values = dict(section)
        adapter = values.pop("adapter", None)
        self._image_token_id = values.pop("image_token_id", None)
        self.config = AutoConfig.for_model(values.pop("model_type"), **values)
        self.config.use_cache = False
        self.body: Any = AutoModel.from_config(self.config, attn_implementation="sdpa")  # type: ignore[no-untyped-call]
        if hasattr(self.body, "rotary_emb"):
            # Its frequencies are computed, not stored, so they must exist even on the meta device.
            with torch.device("cpu"):
                self.body.rotary_emb = type(self.body.rotary_emb)(config=self.config)
        if adapter is not None:
            adapt(self.body, **adapter)
        width, vocab_size = self.config.hidden_size, self.config.vocab_size
        self.lm_head = None if self.config.tie_word_embeddings else nn.Linear(width, vocab_size, bias=False)

    def embed(self, image_embeds: Tensor, token_ids: Tensor) -> Tensor:
        """Embed images and tokens.

        image_embeds : Tensor, shape (batch, num_tokens, width), of all images, one after the other
        token_ids    : Tensor of int64, shape (batch, length), IMAGE at the same positions in every row
        returns      : Tensor, shape (batch, num_tokens + length - count of IMAGE, width)
        """
        embedding = self.body.get_input_embeddings()
        return insert_images(embedding, image_embeds.to(embedding.weight.dtype), token_ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, shape (..., vocab_size), for hidden states of shape (..., width)."""
        if self.lm_head is None:
            return nn.functional.linear(hidden, self.body.get_input_embeddings().weight)
        return self.lm_head(hidden)

    def teacher_forcing(self, image_embeds: Tensor, prompt_ids: Tensor, report_ids: Tensor) -> Tensor:
        """Logits of given reports, shape (batch, report_length, vocab_size); see `Decoder.teacher_forcing`."""
        text = join(prompt_ids, report_ids, pad_token_id=0)
        embeds = self.embed(image_embeds, text.token_ids)
        check_positions(embeds.shape[1], self.config.max_position_embeddings)
        return self.logits(text.scoring(self.body(inputs_embeds=embeds).last_hidden_state))

    def served(self) -> tuple[dict[str, Any], dict[str, Tensor | LazyTensor]]:
        """Section `decoder` and weights of the equivalent CausalLMDecoder.

        Raises ValueError for an unsupported model type or type of rotary positions.
        """
        c = self.config
        if c.model_type not in _SERVED:
            raise ValueError(f"model_type {c.model_type!r} cannot be served; known: {', '.join(_SERVED)}")
        config, sources = _SERVED[c.model_type](c)
        state = dict(self.state_dict())
        weights = {name: _join([state[f"body.{key}"] for key in keys]) for name, keys in sources.items()}
        ranks: dict[str, int] = {}
        for name in [name for name in sources if name.endswith(".weight")]:
            layer = name.removesuffix(".weight")
            adapter = join_adapters(state, [f"body.{key}".removesuffix(".weight") for key in sources[name]])
            if adapter is not None:
                weights[f"{layer}.down"], weights[f"{layer}.up"] = adapter
                ranks[layer.split(".")[-1]] = len(adapter[0])
                for leaf in [leaf for leaf in ("weight", "bias") if f"{layer}.{leaf}" in weights]:
                    weights[f"{layer}.base.{leaf}"] = weights.pop(f"{layer}.{leaf}")
        config = replace(config, adapters=ranks, image_token_id=self._image_token_id)
        if self.lm_head is not None:
            weights["lm_head.weight"] = state["lm_head.weight"]
        if hasattr(self.body, "rotary_emb"):
            kind = self.body.rotary_emb.rope_type
            if kind not in FIXED_ROPE:
                raise ValueError(f"rope_type {kind!r} cannot be served; known: {', '.join(FIXED_ROPE)}")
            weights["inverse_frequencies"] = self.body.rotary_emb.inv_freq
            config = replace(config, rotary_scale=float(self.body.rotary_emb.attention_scaling))
        return {"kind": "causal_lm", **asdict(config)}, weights


def _join(parts: Sequence[Tensor]) -> Tensor | LazyTensor:
    """Join several layers over the same input lazily."""
    if len(parts) == 1:
        return parts[0]
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    return LazyTensor(shape, parts[0].dtype, partial(torch.cat, list(parts)))


Sources = dict[str, list[str]]
"""Our key -> the keys of `transformers` to join."""


def _biogpt(c: Any) -> tuple[CausalLMConfig, Sources]:
    config = CausalLMConfig(
        vocab_size=c.vocab_size,
        width=c.hidden_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        feedforward=c.intermediate_size,
        max_positions=c.max_position_embeddings,
        norm="layer_norm",
        norm_eps=1e-5,
        activation=c.hidden_act,
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
    sources = {"words.weight": ["embed_tokens.weight"], "positions.weight": ["embed_positions.weight"]}
    for leaf in ("weight", "bias"):
        sources[f"norm.{leaf}"] = [f"layer_norm.{leaf}"]
        sources |= _layer_sources(names, leaf, config.layers)
    return config, sources


def _llama(c: Any, biased: Mapping[str, bool]) -> tuple[CausalLMConfig, Sources]:
    """Llama and what differs from it in its biases only.

    biased : whether the layers qkv, out, up and down have a bias
    """
    head_width = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    config = CausalLMConfig(
        vocab_size=c.vocab_size,
        width=c.hidden_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        kv_heads=c.num_key_value_heads,
        head_width=head_width,
        feedforward=c.intermediate_size,
        max_positions=_positions(c),
        norm="rms_norm",
        norm_eps=c.rms_norm_eps,
        activation=c.hidden_act,
        gated=True,
        attention_bias=biased["qkv"],
        out_bias=biased["out"],
        feedforward_bias=biased["up"],
        tied=c.tie_word_embeddings,
    )
    names = {
        "norm1": ["input_layernorm"],
        "qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "out": ["self_attn.o_proj"],
        "norm2": ["post_attention_layernorm"],
        "up": ["mlp.gate_proj", "mlp.up_proj"],
        "down": ["mlp.down_proj"],
    }
    sources = {"words.weight": ["embed_tokens.weight"], "norm.weight": ["norm.weight"]}
    sources |= _layer_sources(names, "weight", config.layers)
    return config, sources | _layer_sources({k: v for k, v in names.items() if biased.get(k)}, "bias", config.layers)


def _positions(c: Any) -> int:
    """The longest text in which attention to a sliding window, if there is one, is attention to everything before."""
    window = getattr(c, "sliding_window", None)
    layers = getattr(c, "layer_types", None) or ["sliding_attention"]
    return (
        min(c.max_position_embeddings, window)
        if window and "sliding_attention" in layers
        else c.max_position_embeddings
    )


_SERVED: dict[str, Callable[[Any], tuple[CausalLMConfig, Sources]]] = {
    "biogpt": _biogpt,
    "llama": lambda c: _llama(
        c, {"qkv": c.attention_bias, "out": c.attention_bias, "up": c.mlp_bias, "down": c.mlp_bias}
    ),
    "mistral": lambda c: _llama(c, {"qkv": False, "out": False, "up": False}),
    "qwen2": lambda c: _llama(c, {"qkv": True, "out": False, "up": False}),
}
"""Model type of `transformers` -> dimensions and sources of the equivalent CausalLMDecoder."""


def _layer_sources(names: Mapping[str, Sequence[str]], leaf: str, layers: int) -> Sources:
    return {
        f"layers.{i}.{ours}.{leaf}": [f"layers.{i}.{theirs}.{leaf}" for theirs in parts]
        for i in range(layers)
        for ours, parts in names.items()
    }
