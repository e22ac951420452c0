"""`transformers` `generate` with the same weights and the image as embeddings, as our users would call it."""

from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    MarianConfig,
    MarianMTModel,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
)
from transformers.modeling_outputs import BaseModelOutput

from benchmarks.models.shapes import BOS, EOS, PAD, WEIGHTS, read_shape
from prelim.decoders.cross_attention import CrossAttentionConfig

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Peer:
    """Language models unchanged; with cross-attention in a VisionEncoderDecoderModel, and our decoder as Marian's."""

    precisions = tuple(_DTYPES)

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self.versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        self._folder = folder
        self._shape = read_shape(folder)
        self.note = "same weights, sdpa attention, dynamic cache"
        if not self._shape.of_library:
            self.note += "; the decoder is Marian's"
        self._models: dict[str, Any] = {}

    def load(self, precision: str) -> None:
        """Read the weights once."""
        if precision in self._models:
            return
        dimensions = {name: value for name, value in self._shape.section.items() if name != "kind"}
        if self._shape.is_prefix:
            model: Any = AutoModelForCausalLM.from_pretrained(self._folder, dtype=_DTYPES[precision])
        elif self._shape.of_library:
            decoder = AutoModelForCausalLM.from_pretrained(self._folder, dtype=_DTYPES[precision])
            # Its output is given, so that it is never run.
            encoder = ViTModel(ViTConfig(hidden_size=decoder.config.hidden_size, num_hidden_layers=0))
            model = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
        else:
            model = marian(CrossAttentionConfig(**dimensions), load_file(self._folder / WEIGHTS))
        self._models[precision] = model.to(_DTYPES[precision]).eval().requires_grad_(False)

    def run(self, precision: str, prefixes: list[list[int]], beams: int, new_tokens: int) -> list[list[int]]:
        """Decode all prefixes in one batch."""
        model, ids = self._models[precision], torch.tensor(prefixes)
        with torch.inference_mode():
            if self._shape.is_prefix:
                embeds = model.get_input_embeddings()(ids)
                inputs = {"inputs_embeds": embeds, "attention_mask": torch.ones_like(ids)}
            else:
                image = model.get_decoder().get_input_embeddings()(ids)
                inputs = {
                    "encoder_outputs": BaseModelOutput(last_hidden_state=image),
                    "attention_mask": torch.ones_like(ids),
                    "decoder_input_ids": torch.full((len(prefixes), 1), BOS),
                }
            tokens = model.generate(
                **inputs,
                num_beams=beams,
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                bos_token_id=BOS,
                eos_token_id=EOS,
                pad_token_id=PAD,
                use_cache=True,
            )
        return tokens[:, -new_tokens:].tolist()


def marian(c: CrossAttentionConfig, weights: dict[str, Tensor]) -> MarianMTModel:
    """Our decoder's weights in a Marian model; only the output of its encoder is used."""
    config = MarianConfig(
        vocab_size=c.vocab_size,
        decoder_vocab_size=c.vocab_size,
        d_model=c.width,
        encoder_layers=0,
        decoder_layers=c.layers,
        encoder_attention_heads=c.heads,
        decoder_attention_heads=c.heads,
        decoder_ffn_dim=c.feedforward,
        max_position_embeddings=c.max_positions,
        activation_function="relu",
        scale_embedding=False,
        tie_word_embeddings=False,
        share_encoder_decoder_embeddings=False,
        decoder_start_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        forced_eos_token_id=None,
    )
    model = MarianMTModel(config)
    named = {
        "final_logits_bias": weights["lm_head.bias"][None],
        "lm_head.weight": weights["lm_head.weight"],
        "model.decoder.embed_tokens.weight": weights["token_embedding.weight"],
        "model.decoder.embed_positions.weight": weights["position_embedding"],
    }
    for i in range(c.layers):
        for name, tensor in _layer({k: v for k, v in weights.items() if k.startswith(f"layers.{i}.")}, i).items():
            named[f"model.decoder.layers.{i}.{name}"] = tensor
    model.load_state_dict(model.state_dict() | named)
    return model


_LAYER = {
    "self_attention.out_proj": "self_attn.out_proj",
    "cross_attention.out_proj": "encoder_attn.out_proj",
    "norm1": "self_attn_layer_norm",
    "norm2": "encoder_attn_layer_norm",
    "norm3": "final_layer_norm",
    "linear1": "fc1",
    "linear2": "fc2",
}
"""Our layer names -> Marian's, without the fused projections."""


def _layer(weights: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    """Weights of one layer under Marian's names."""
    named = {}
    for kind in ("weight", "bias"):
        for ours, theirs in _LAYER.items():
            named[f"{theirs}.{kind}"] = weights[f"layers.{i}.{ours}.{kind}"]
        for ours, theirs in (("self_attention", "self_attn"), ("cross_attention", "encoder_attn")):
            fused = weights[f"layers.{i}.{ours}.in_proj.{kind}"]
            for part, tensor in zip("qkv", fused.chunk(3), strict=True):
                named[f"{theirs}.{part}_proj.{kind}"] = tensor
    return named
