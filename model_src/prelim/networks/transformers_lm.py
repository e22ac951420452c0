"""A causal language model of `transformers` that reads the image as a prefix, for training and import.

The network is the library's, so published checkpoints, adapters and recipes fit it unchanged. `served` converts it to a
`CausalLMDecoder`.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from prelim.decoders.causal_lm import CausalLMConfig
from prelim.decoders.decoder import Grids
from prelim.decoders.grid_positions import grid_positions
from prelim.decoders.sight import prefix_sight
from prelim.decoders.teacher_forcing import check_positions, insert_images, join, spread_images
from prelim.decoders.weights_file import LazyTensor, materialize
from prelim.kernels import GROUP
from prelim.networks.adapters import adapt, join_adapters
from prelim.networks.causal_lm_sources import rotary_sections, sources, with_rotary

_Weights = dict[str, Tensor | LazyTensor]


class TransformersLM(nn.Module):
    """A language model of one of the model types in `causal_lm_sources`.

    section : the section `decoder` of model.yaml without its `kind`: `model_type` of `transformers`, and the values of
              that model's configuration; optionally `adapter` with its `rank` and the names of the adapted `layers`,
              and `image_token_id` and `mutual_images`, as in `CausalLMConfig`

    Raises ValueError for an unknown model type.
    """

    def __init__(self, section: Mapping[str, Any]) -> None:
        super().__init__()
        values = dict(section)
        adapter = values.pop("adapter", None)
        self._image_token_id = values.pop("image_token_id", None)
        self._mutual_images = bool(values.pop("mutual_images", False))
        self.config = AutoConfig.for_model(values.pop("model_type"), **values)
        self.config.use_cache = False
        self.body: Any = AutoModel.from_config(self.config, attn_implementation="sdpa")  # type: ignore[no-untyped-call]
        if hasattr(self.body, "rotary_emb"):
            # Its frequencies are computed, not stored, so they must exist even on the meta device.
            with torch.device("cpu"):
                self.body.rotary_emb = type(self.body.rotary_emb)(config=self.config)
        words = self.body.get_input_embeddings()
        if isinstance(getattr(words, "embed_scale", None), Tensor):
            words.embed_scale = torch.tensor(words.scalar_embed_scale, device="cpu")
        if adapter is not None:
            adapt(self.body, **adapter)
        width, vocab_size = self.config.hidden_size, self.config.vocab_size
        biased = self.config.model_type == "phi"
        self.lm_head = None if self.config.tie_word_embeddings else nn.Linear(width, vocab_size, bias=biased)

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

    def teacher_forcing(
        self, image_embeds: Tensor, prompt_ids: Tensor, report_ids: Tensor, grids: Grids = ()
    ) -> Tensor:
        """Logits of given reports, shape (batch, report_length, vocab_size); see `Decoder.teacher_forcing`."""
        text = join(prompt_ids, report_ids, pad_token_id=0)
        embeds = self.embed(image_embeds, text.token_ids)
        check_positions(embeds.shape[1], self.config.max_position_embeddings)
        sight = self._sight(image_embeds.shape[1], text.token_ids) if self._mutual_images else None
        positions = self._positions(image_embeds.shape[1], text.token_ids, grids)
        read = self.body(inputs_embeds=embeds, attention_mask=sight, position_ids=positions).last_hidden_state
        return self.logits(text.scoring(read))

    def _positions(self, num_tokens: int, token_ids: Tensor, grids: Grids) -> Tensor | None:
        """Positions of `grid_positions`, shape (3, batch, length); None where they are those in the text."""
        if not rotary_sections(self.config):
            return None
        whole = spread_images(num_tokens, token_ids)
        return grid_positions(whole[0], grids)[:, None].expand(-1, len(whole), -1)

    def _sight(self, num_tokens: int, token_ids: Tensor) -> dict[str, Tensor | None]:
        """Masks by kind of layer in which the tokens of an image see each other."""
        sights = prefix_sight(num_tokens, token_ids, self.config.sliding_window, mutual=True)
        return dict(zip(("full_attention", "sliding_attention"), sights, strict=False))

    def served(self) -> tuple[dict[str, Any], _Weights]:
        """Section `decoder` and weights of the equivalent CausalLMDecoder.

        Raises ValueError for an unsupported model type or type of rotary positions.
        """
        config, found = sources(self.config)
        config = replace(config, mutual_images=self._mutual_images)
        state = {key.removeprefix("body."): tensor for key, tensor in self.state_dict().items()}
        weights = {name: source.read(state) for name, source in found.items()}
        ranks: dict[str, int] = {}
        for name in [name for name in found if name.endswith(".weight")]:
            layer, source = name.removesuffix(".weight"), found[name]
            adapter = join_adapters(state, [key.removesuffix(".weight") for key in source.keys])
            if adapter is None:
                continue
            if source.change is not None:
                raise ValueError(f"an adapter of {source.keys[0]} cannot be served apart; merge it into its layer")
            weights[f"{layer}.down"], weights[f"{layer}.up"] = adapter
            ranks[layer.split(".")[-1]] = len(adapter[0])
            for leaf in [leaf for leaf in ("weight", "bias") if f"{layer}.{leaf}" in weights]:
                weights[f"{layer}.base.{leaf}"] = weights.pop(f"{layer}.{leaf}")
        config = replace(config, adapters=ranks, image_token_id=self._image_token_id)
        if self.lm_head is not None:
            weights |= {name: tensor for name, tensor in state.items() if name.startswith("lm_head.")}
        if hasattr(self.body, "rotary_emb"):
            config, frequencies = with_rotary(config, self.body.rotary_emb)
            weights |= frequencies
        config, weights = _fill_feedforward(config, weights)
        return {"kind": "causal_lm", **asdict(config)}, weights


def _fill_feedforward(config: CausalLMConfig, weights: _Weights) -> tuple[CausalLMConfig, _Weights]:
    """A feed-forward with zeros up to the next width for which a step is compiled; what it gives is the same.

    With adapters no step is compiled, and nothing is added.
    """
    missing = -config.feedforward % GROUP
    if not missing or config.adapters:
        return config, weights
    filled = dict(weights)
    for name, tensor in weights.items():
        if name.endswith((".up.weight", ".up.bias")):
            filled[name] = _filled(tensor, 0, 2 if config.gated else 1, missing)
        elif name.endswith(".down.weight"):
            filled[name] = _filled(tensor, 1, 1, missing)
    return replace(config, feedforward=config.feedforward + missing), filled


def _filled(tensor: Tensor | LazyTensor, axis: int, parts: int, missing: int) -> LazyTensor:
    """So many zeros after each of equal parts of one axis, lazily."""
    shape = list(tensor.shape)
    shape[axis] += parts * missing

    def make() -> Tensor:
        chunks = materialize(tensor).chunk(parts, dim=axis)
        zeros = chunks[0].new_zeros([missing if i == axis else size for i, size in enumerate(tensor.shape)])
        return torch.cat([half for chunk in chunks for half in (chunk, zeros)], dim=axis)

    return LazyTensor(tuple(shape), tensor.dtype, make)
