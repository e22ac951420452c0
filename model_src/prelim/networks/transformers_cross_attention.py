"""A BERT or GPT-2 of `transformers` that reads the image by cross-attention, for training and import.

The network is the library's, so that published checkpoints fit it unchanged. `served` converts it to a
`CrossAttentionDecoder`.

Source: Devlin et al., "BERT", NAACL 2019; Radford et al., "Language Models are Unsupervised Multitask Learners", 2019;
the cross-attention is that of Rothe et al., "Leveraging Pre-trained Checkpoints for Sequence Generation Tasks", TACL
2020.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform

from prelim.decoders.cross_attention import CrossAttentionConfig
from prelim.decoders.decoder import Grids
from prelim.decoders.teacher_forcing import check_positions, join
from prelim.decoders.weights_file import LazyTensor

MODEL_TYPES = ("bert", "gpt2")

ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
"""Names of transformers -> names of `CrossAttentionConfig`."""


class TransformersCrossAttention(nn.Module):
    """A BERT- or GPT-2-style decoder with cross-attention.

    section : the section `decoder` of model.yaml without its `kind`: `model_type` of `transformers`, and the values of
              that model's configuration; `cross_attention_hidden_size` of a BERT is the width of image_embeds

    Raises ValueError for an unknown model type.
    """

    def __init__(self, section: Mapping[str, Any]) -> None:
        super().__init__()
        values = {**section, "add_cross_attention": True, "is_decoder": True}
        kind = values.pop("model_type")
        if kind not in MODEL_TYPES:
            raise ValueError(f"model_type is {kind!r}; known with cross-attention: {', '.join(MODEL_TYPES)}")
        self.config = AutoConfig.for_model(kind, **values)
        self.config.use_cache = False
        options = {"add_pooling_layer": False} if kind == "bert" else {}
        # Positions and token types of a text are computed, not stored, so they must exist even on the meta device.
        with torch.device("cpu"):
            self.body: Any = AutoModel.from_config(self.config, attn_implementation="sdpa", **options)  # type: ignore[no-untyped-call]
        width, vocab_size = self.config.hidden_size, self.config.vocab_size
        self.image_width: int = values.get("cross_attention_hidden_size") or width
        if self.image_width != width:
            for layer in self.body.encoder.layer:
                attention = layer.crossattention.self
                attention.key, attention.value = (nn.Linear(self.image_width, width) for _ in range(2))
        self.transform = BertPredictionHeadTransform(self.config) if kind == "bert" else None  # type: ignore[no-untyped-call]
        self.lm_bias = nn.Parameter(torch.zeros(vocab_size)) if kind == "bert" else None
        self.lm_head = None if self.config.tie_word_embeddings else nn.Linear(width, vocab_size, bias=False)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, shape (..., vocab_size), for hidden states of shape (..., width)."""
        x = hidden if self.transform is None else self.transform(hidden)
        head = self.body.get_input_embeddings() if self.lm_head is None else self.lm_head
        return nn.functional.linear(x, head.weight, self.lm_bias)

    def teacher_forcing(
        self, image_embeds: Tensor, prompt_ids: Tensor, report_ids: Tensor, grids: Grids = ()
    ) -> Tensor:
        """Logits of given reports, shape (batch, report_length, vocab_size); see `Decoder.teacher_forcing`."""
        text = join(prompt_ids, report_ids, pad_token_id=0)
        check_positions(text.token_ids.shape[1], self.config.max_position_embeddings)
        image_embeds = image_embeds.to(self.body.get_input_embeddings().weight.dtype)
        read = self.body(input_ids=text.token_ids, encoder_hidden_states=image_embeds).last_hidden_state
        return self.logits(text.scoring(read))

    def served(self) -> tuple[dict[str, Any], dict[str, Tensor | LazyTensor]]:
        """Section `decoder` and weights of the equivalent CrossAttentionDecoder.

        Raises ValueError for an activation that it does not have.
        """
        c = self.config
        bert = c.model_type == "bert"
        setting = "hidden_act" if bert else "activation_function"
        activation = getattr(c, setting)
        if activation not in ACTIVATIONS:
            raise ValueError(f"{setting} is {activation!r}; known: {', '.join(ACTIVATIONS)}")
        config = CrossAttentionConfig(
            vocab_size=c.vocab_size,
            width=c.hidden_size,
            layers=c.num_hidden_layers,
            heads=c.num_attention_heads,
            feedforward=c.intermediate_size if bert else c.n_inner or 4 * c.hidden_size,
            max_positions=c.max_position_embeddings,
            norm_eps=c.layer_norm_eps if bert else c.layer_norm_epsilon,
            activation=ACTIVATIONS[activation],
            head_hidden=c.hidden_size if bert else None,
            head_norm=bert,
            embedding_norm=bert,
            pre_norm=not bert,
            tied=self.lm_head is None,
            image_width=None if self.image_width == c.hidden_size else self.image_width,
            hide_padding=False,
        )
        state = dict(self.state_dict())
        weights = self._bert(state) if bert else self._gpt2(state)
        table = self.body.get_input_embeddings().weight
        bias = table.new_zeros(c.vocab_size, device="cpu") if self.lm_bias is None else state["lm_bias"]
        weights["lm_bias" if self.lm_head is None else "lm_head.bias"] = bias
        if self.lm_head is not None:
            weights["lm_head.weight"] = state["lm_head.weight"]
        return {"kind": "cross_attention", **asdict(config)}, weights

    def _bert(self, state: Mapping[str, Tensor]) -> dict[str, Tensor | LazyTensor]:
        names = {
            "self_attention.out_proj": "attention.output.dense",
            "norm1": "attention.output.LayerNorm",
            "cross_attention.out_proj": "crossattention.output.dense",
            "norm2": "crossattention.output.LayerNorm",
            "linear1": "intermediate.dense",
            "linear2": "output.dense",
            "norm3": "output.LayerNorm",
        }
        weights: dict[str, Tensor | LazyTensor] = {
            "token_embedding.weight": state["body.embeddings.word_embeddings.weight"],
            # All of a report is of the first type.
            "position_embedding": state["body.embeddings.position_embeddings.weight"]
            + state["body.embeddings.token_type_embeddings.weight"][0],
        }
        for leaf in ("weight", "bias"):
            weights[f"embedding_norm.{leaf}"] = state[f"body.embeddings.LayerNorm.{leaf}"]
            weights[f"lm_hidden.{leaf}"] = state[f"transform.dense.{leaf}"]
            weights[f"lm_norm.{leaf}"] = state[f"transform.LayerNorm.{leaf}"]
            for i in range(self.config.num_hidden_layers):
                theirs = f"body.encoder.layer.{i}"
                for ours, name in names.items():
                    weights[f"layers.{i}.{ours}.{leaf}"] = state[f"{theirs}.{name}.{leaf}"]
                for ours, name in (("self_attention", "attention"), ("cross_attention", "crossattention")):
                    parts = [state[f"{theirs}.{name}.self.{part}.{leaf}"] for part in ("query", "key", "value")]
                    if name == "crossattention" and self.image_width != self.config.hidden_size:
                        weights[f"layers.{i}.{ours}.memory_proj.{leaf}"] = _join(parts[1:])
                        parts = parts[:1]
                    weights[f"layers.{i}.{ours}.in_proj.{leaf}"] = _join(parts)
        return weights

    def _gpt2(self, state: Mapping[str, Tensor]) -> dict[str, Tensor | LazyTensor]:
        norms = {"norm1": "ln_1", "norm2": "ln_cross_attn", "norm3": "ln_2"}
        products = {
            "self_attention.in_proj": ["attn.c_attn"],
            "self_attention.out_proj": ["attn.c_proj"],
            "cross_attention.in_proj": ["crossattention.q_attn", "crossattention.c_attn"],
            "cross_attention.out_proj": ["crossattention.c_proj"],
            "linear1": ["mlp.c_fc"],
            "linear2": ["mlp.c_proj"],
        }
        weights: dict[str, Tensor | LazyTensor] = {
            "token_embedding.weight": state["body.wte.weight"],
            "position_embedding": state["body.wpe.weight"],
        }
        for leaf in ("weight", "bias"):
            weights[f"norm.{leaf}"] = state[f"body.ln_f.{leaf}"]
            for i in range(self.config.num_hidden_layers):
                for ours, name in norms.items():
                    weights[f"layers.{i}.{ours}.{leaf}"] = state[f"body.h.{i}.{name}.{leaf}"]
                for ours, parts in products.items():
                    # Its matrices are (inputs, outputs).
                    found = [state[f"body.h.{i}.{name}.{leaf}"] for name in parts]
                    weights[f"layers.{i}.{ours}.{leaf}"] = _join([part.T if part.ndim == 2 else part for part in found])
        return weights


def _join(parts: list[Tensor]) -> LazyTensor:
    """The rows of several tensors, one after the other, when they are written."""
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    return LazyTensor(shape, parts[0].dtype, partial(torch.cat, parts))
