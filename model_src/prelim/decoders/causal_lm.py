"""The causal language model that is served: an image prefix, one fused projection before attention, our cache.

Source of the layers: BioGPT (Luo et al., 2022), which is GPT-2's pre-norm transformer (Radford et al., 2019); Llama
(Touvron et al., 2023): RMS norm, rotary positions, grouped heads, gated feed-forward; Mistral (Jiang et al., 2023):
sliding windows; Phi (Li et al., 2023): attention and feed-forward side by side; Qwen3 (2025): norms of queries and
keys; Gemma 3 (2025): norms after attention and feed-forward, two rotary tables, images whose tokens see each other;
Qwen2.5-VL (2025): positions of images in rows and columns.
Published weights are read by `TransformersLM`, with which this one agrees.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, rms_norm, silu

from prelim.decoders.attention import Attending, attending_of
from prelim.decoders.causal_lm_state import CausalLMState
from prelim.decoders.decoder import IMAGE, Grids
from prelim.decoders.grid_positions import grid_positions, turn_sections
from prelim.decoders.kv_cache import KVCache, Places
from prelim.decoders.linear import AdaptedLinear
from prelim.decoders.sight import mask_of, near, prefix_sight
from prelim.decoders.step_attention import StepAttention
from prelim.decoders.teacher_forcing import check_positions, insert_images, join, spread_images
from prelim.decoders.token_embedding import TokenEmbedding, draw_weights

if TYPE_CHECKING:
    from prelim.kernels.causal_lm_step import CompiledStep

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "silu": silu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
}
NORMS = ("layer_norm", "rms_norm")


@dataclass(frozen=True)
class CausalLMConfig:
    """Dimensions of a causal language model, as in section `decoder` of an archive's model.yaml.

    kv_heads        : heads of keys and values, each for heads / kv_heads queries; None: as many as `heads`
    head_width      : of one head; None shares the width among the heads
    norm            : one of NORMS
    activation      : one of ACTIVATIONS
    gated           : the feed-forward multiplies what it activates with a second projection
    embedding_scale : factor of token embeddings; those of the image are taken as they come
    position_offset : row of the position table for position 0; None: positions are rotary
    rotary_scale    : factor of the sines and cosines
    rotary_sections : how many frequencies turn by time, rows, columns, time, and so on, of images that are grids;
                      empty where a token's position is that in the text
    attention_bias, out_bias, feedforward_bias, head_bias : which projections have one; the last scores tokens
    tied            : tokens are scored by their embeddings
    image_token_id  : id of each token of an image where `generate` gets the prompt as ids, which then count in
                      repetition penalties; None where it gets embeddings
    parallel        : attention and feed-forward read the same and are added at once
    post_norms      : what attention and feed-forward give is normalized too, before it is added
    query_key_norms : queries and keys are normalized, each head by itself
    window          : positions that a token of the layers `window_layers` sees, itself the last; None: all before it
    window_layers   : the numbers of these layers
    window_rotary   : they have a rotary table of their own
    mutual_images   : the tokens of an image see each other, also those after them
    adapters        : rank of the low-rank adapter of each kind of layer that has one: qkv, out, up, down
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    feedforward: int
    max_positions: int
    kv_heads: int | None = None
    head_width: int | None = None
    norm: str = "layer_norm"
    norm_eps: float = 1e-5
    activation: str = "gelu"
    gated: bool = False
    embedding_scale: float = 1.0
    position_offset: int | None = None
    rotary_scale: float = 1.0
    rotary_sections: Sequence[int] = ()
    attention_bias: bool = False
    out_bias: bool = False
    feedforward_bias: bool = False
    head_bias: bool = False
    tied: bool = False
    image_token_id: int | None = None
    parallel: bool = False
    post_norms: bool = False
    query_key_norms: bool = False
    window: int | None = None
    window_layers: Sequence[int] = ()
    window_rotary: bool = False
    mutual_images: bool = False
    adapters: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, allowed in (("norm", NORMS), ("activation", tuple(ACTIVATIONS))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; known: {', '.join(allowed)}")
        if self.image_token_id is not None and not 0 <= self.image_token_id < self.vocab_size:
            raise ValueError(f"image_token_id is {self.image_token_id!r}; allowed: 0 to {self.vocab_size - 1}")
        if self.parallel and self.post_norms:
            raise ValueError("parallel and post_norms are both set; no layer has both")
        if (self.window is None) != (not self.window_layers) or (self.window is not None and self.window < 1):
            raise ValueError(
                f"window is {self.window!r} with {len(self.window_layers)} window_layers; allowed: a number of "
                "positions and the numbers of layers, or neither"
            )
        half = (self.head_width or self.width // self.heads) // 2
        if self.rotary_sections and (sum(self.rotary_sections) != half or min(self.rotary_sections) < 0):
            raise ValueError(f"rotary_sections is {list(self.rotary_sections)!r}; expected numbers with the sum {half}")
        if self.rotary_sections and (self.window is not None or self.position_offset is not None):
            raise ValueError("rotary_sections are set with a window or learned positions; no decoder has both")

    @property
    def kinds(self) -> tuple[int, ...]:
        """Of every layer: 0, or 1 where it sees a window only."""
        return tuple(int(layer in self.window_layers) for layer in range(self.layers))


class _Norm(nn.Module):
    """Layer norm with a bias, or RMS norm without (Zhang and Sennrich, 2019)."""

    def __init__(self, config: CausalLMConfig, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if config.norm == "layer_norm" else None
        self.eps = config.norm_eps

    def both(self) -> Tensor:
        """Weight and bias, shape (2, width); zeros where there is no bias."""
        return torch.stack([self.weight, torch.zeros_like(self.weight) if self.bias is None else self.bias])

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return rms_norm(x, self.weight.shape, self.weight, self.eps)
        return layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of rotary positions, each of shape (sequences, queries, 1, head_width)."""


@dataclass(frozen=True)
class _Reading:
    """How layers of one kind read the tokens of a forward pass; rotation is None where positions are learned."""

    rotation: Rotation | None
    attending: Attending | StepAttention


class _Layer(nn.Module):
    """Attention and feed-forward, each normalized before and added after (pre-norm)."""

    def __init__(self, config: CausalLMConfig) -> None:
        super().__init__()
        c = config
        self.heads, self.kv_heads = c.heads, c.kv_heads or c.heads
        self.head_width = c.head_width or c.width // c.heads
        self.gated = c.gated
        self.activation = ACTIVATIONS[c.activation]
        self.norm1 = _Norm(c, c.width)
        self.qkv = nn.Linear(c.width, (self.heads + 2 * self.kv_heads) * self.head_width, bias=c.attention_bias)
        self.query_norm = _Norm(c, self.head_width) if c.query_key_norms else None
        self.key_norm = _Norm(c, self.head_width) if c.query_key_norms else None
        self.out = nn.Linear(self.heads * self.head_width, c.width, bias=c.out_bias)
        self.post_norm1 = _Norm(c, c.width) if c.post_norms else None
        self.norm2 = None if c.parallel else _Norm(c, c.width)
        self.up = nn.Linear(c.width, (2 if c.gated else 1) * c.feedforward, bias=c.feedforward_bias)
        self.down = nn.Linear(c.feedforward, c.width, bias=c.feedforward_bias)
        self.post_norm2 = _Norm(c, c.width) if c.post_norms else None
        for name, rank in c.adapters.items():
            setattr(self, name, AdaptedLinear(getattr(self, name), rank))

    def forward(self, x: Tensor, reading: _Reading, places: Places | None, layer: int) -> Tensor:
        """One layer, shape (sequences, queries, width) in and out.

        places : of these tokens in the cache; None attends among these tokens alone
        layer  : its number
        """
        normed = self.norm1(x)
        attended = self._attend(normed, reading, places, layer)
        if self.norm2 is None:
            return x + attended + self._feed_forward(normed)
        x = x + (attended if self.post_norm1 is None else self.post_norm1(attended))
        fed = self._feed_forward(self.norm2(x))
        return x + (fed if self.post_norm2 is None else self.post_norm2(fed))

    def _attend(self, normed: Tensor, reading: _Reading, places: Places | None, layer: int) -> Tensor:
        sequences, queries, _ = normed.shape
        qkv = self.qkv(normed).view(sequences, queries, -1, self.head_width)
        turning = qkv[:, :, : self.heads + self.kv_heads]
        if self.query_norm is not None and self.key_norm is not None:
            query, key = turning.split((self.heads, self.kv_heads), dim=2)
            query.copy_(self.query_norm(query))
            key.copy_(self.key_norm(key))
        if reading.rotation is not None:
            turning.copy_(_rotate(turning, *reading.rotation))
        key_value = qkv[:, :, self.heads :].unflatten(2, (2, self.kv_heads)).permute(2, 0, 3, 1, 4)
        keys, values = key_value if places is None else places.store(key_value, layer)
        gathered = reading.attending(qkv[:, :, : self.heads].transpose(1, 2), keys, values)
        attended: Tensor = self.out(gathered.transpose(1, 2).reshape(sequences, queries, -1))
        return attended

    def _feed_forward(self, normed: Tensor) -> Tensor:
        y = self.up(normed)
        if self.gated:
            gate, y = y.chunk(2, dim=-1)
            y = self.activation(gate) * y
        else:
            y = self.activation(y)
        fed: Tensor = self.down(y)
        return fed


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions, halves of a head as pairs. Source: Su et al., "RoFormer", 2021, as in `transformers`."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class CausalLMDecoder(nn.Module):
    """Decoder for serving BioGPT, Llama and similar models.

    compiled       : replaces the layers in `step`, where there is one (see `pack`)
    not_compiled   : why there is none
    step_attending : makes the attention of `step` from its mask
    """

    hidden_from_all: int | None = None

    def __init__(self, config: CausalLMConfig) -> None:
        super().__init__()
        c = config
        self.config = c
        self.max_positions = c.max_positions
        # Its name is a key of the files of archives.
        self.words = TokenEmbedding(c.vocab_size, c.width)
        head_width = c.head_width or c.width // c.heads
        if c.position_offset is None:
            self.positions = None
            self.inverse_frequencies = nn.Parameter(torch.ones(head_width // 2))
            if c.window_rotary:
                self.window_frequencies = nn.Parameter(torch.ones(head_width // 2))
        else:
            rows = c.max_positions + c.position_offset
            self.positions = nn.Embedding(rows, c.width, _weight=draw_weights(rows, c.width))
        self.layers = nn.ModuleList(_Layer(c) for _ in range(c.layers))
        self.norm = _Norm(c, c.width)
        self.lm_head = None if c.tied else nn.Linear(c.width, c.vocab_size, bias=c.head_bias)
        self.compiled: CompiledStep | None = None
        self.not_compiled: str | None = "it was not packed"
        self.step_attending: type[Attending | StepAttention] = Attending

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.norm.weight.device

    @property
    def reads_together(self) -> bool:
        """Where the compiled step reads prefixes; other kernels choose the order of sums by the number of rows."""
        return self.compiled is not None and self.compiled.reads_prefixes

    @property
    def reads_in_parts(self) -> bool:
        """Then too, unless the tokens of an image see those after them."""
        return self.reads_together and not self.config.mutual_images

    def new_state(self, slots: int) -> CausalLMState:
        """An empty cache with room for `slots` requests."""
        c = self.config
        cache = KVCache(
            layers=c.layers,
            heads=c.kv_heads or c.heads,
            head_width=c.head_width or c.width // c.heads,
            dtype=self.norm.weight.dtype,
            device=self.device,
        )
        return CausalLMState(cache)

    def history(self, prompt_ids: tuple[int, ...]) -> tuple[int, ...]:
        """The prompt, if it was given to `generate` as ids; nothing if as embeddings, whose ids it does not see."""
        image = self.config.image_token_id
        return () if image is None else tuple(image if token_id == IMAGE else token_id for token_id in prompt_ids)

    def next_position(self, prompt_ids: tuple[int, ...], grids: Grids) -> int:
        """Position of the first token after a prefix; see `Decoder.next_position`."""
        if not self.config.rotary_sections:
            return len(prompt_ids)
        return int(grid_positions(torch.tensor(prompt_ids), grids).max()) + 1

    def prefill(
        self, state: CausalLMState, places: Places, image_embeds: Tensor, prompt_ids: Tensor, grids: Grids = ()
    ) -> Tensor:
        """Logits of the first token to write, shape (slots, vocab_size); see `Decoder.prefill`."""
        embeds = self._embed_prefix(image_embeds, prompt_ids)
        if self.config.window is not None:
            state.remember(places, places.columns)
        sights = self._prefix_sights(image_embeds.shape[1], prompt_ids)
        positions = self._prefix_positions(image_embeds.shape[1], prompt_ids, grids)
        if self.compiled is not None and self.reads_together:
            read = places.columns[0]
            x, rotations = self._add_positions(embeds[:, read], positions[..., read])
            masks = [mask_of(sight, places.columns, places.length) for sight in sights]
            logits = self.compiled(x, rotations, masks, places.layers, places.columns, places.slots, prefix=True)
            return logits[:, 0]
        return self._score(self._hidden(embeds, positions, places, attending_of(sights))[:, -1])

    def teacher_forcing(
        self, image_embeds: Tensor, prompt_ids: Tensor, report_ids: Tensor, grids: Grids = ()
    ) -> Tensor:
        """Logits of given reports, shape (batch, report_length, vocab_size); see `Decoder.teacher_forcing`."""
        text = join(prompt_ids, report_ids, pad_token_id=0)
        embeds = self._embed_prefix(image_embeds, text.token_ids)
        check_positions(embeds.shape[1], self.max_positions)
        positions = self._prefix_positions(image_embeds.shape[1], text.token_ids, grids)
        attending = attending_of(self._prefix_sights(image_embeds.shape[1], text.token_ids))
        return self._score(text.scoring(self._hidden(embeds, positions, None, attending)))

    def step(self, state: CausalLMState, places: Places, token_ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Logits of the next token, shape (slots, rows, vocab_size); see `Decoder.step`."""
        embeds = self._embed(token_ids)
        masks = [mask]
        if self.config.window is not None:
            state.remember(places, positions)
            there = state.positions[places.slots, None, None, : mask.shape[-1]]
            masks.append(mask & near(positions[:, None, :, None], there, self.config.window))
        if self.compiled is not None:
            x, rotations = self._add_positions(embeds, positions)
            return self.compiled(x, rotations, masks, places.layers, places.columns, places.slots)
        return self._score(self._hidden(embeds, positions, places, [self.step_attending(mask) for mask in masks]))

    def _prefix_positions(self, num_tokens: int, token_ids: Tensor, grids: Grids) -> Tensor:
        """Of each embedding, shape (batch, length), or (3, batch, length) where positions have sections.

        num_tokens : of all images, whose places are in `token_ids`
        """
        whole = spread_images(num_tokens, token_ids)
        if not self.config.rotary_sections:
            return torch.arange(whole.shape[1], device=whole.device).expand(len(whole), -1)
        return grid_positions(whole[0], grids)[:, None].expand(-1, len(whole), -1)

    def _prefix_sights(self, num_tokens: int, token_ids: Tensor) -> list[Tensor | None]:
        """What tokens see in every kind of layer; `num_tokens` are of all images, whose places are in `token_ids`."""
        c = self.config
        return prefix_sight(num_tokens, token_ids, c.window, mutual=c.mutual_images)

    def _embed_prefix(self, image_embeds: Tensor, token_ids: Tensor) -> Tensor:
        """Embeddings of tokens, Tensor of shape (batch, length, width), those of the images where IMAGE is."""
        return insert_images(self._embed, image_embeds.to(self.norm.weight.dtype), token_ids)

    def _embed(self, token_ids: Tensor) -> Tensor:
        return self.words(token_ids).to(self.norm.weight.dtype) * self.config.embedding_scale

    def _score(self, hidden: Tensor) -> Tensor:
        return self.words.scores(hidden) if self.lm_head is None else self.lm_head(hidden)

    def _hidden(
        self,
        x: Tensor,
        positions: Tensor,
        places: Places | None,
        attending: Sequence[Attending | StepAttention],
    ) -> Tensor:
        """Hidden states, shape (sequences, queries, width); `attending` is of every kind of layer."""
        x, rotations = self._add_positions(x, positions)
        turning: Sequence[Rotation | None] = rotations or [None] * len(attending)
        readings = [_Reading(*each) for each in zip(turning, attending, strict=True)]
        for i, (layer, kind) in enumerate(zip(self.layers, self.config.kinds, strict=True)):
            x = layer(x, readings[kind], places, i)
        return self.norm(x)

    def _add_positions(self, x: Tensor, positions: Tensor) -> tuple[Tensor, list[Rotation]]:
        """Embeddings with their positions, or with the rotations, of every kind of layer, that encode these.

        positions : Tensor of int64, shape (sequences, queries), or (3, sequences, queries) of `grid_positions`
        """
        if self.positions is not None:
            return x + self.positions(positions + (self.config.position_offset or 0)), []
        rotations = [self._rotation(self.inverse_frequencies, positions, x.dtype)]
        if self.config.window_rotary:
            rotations.append(self._rotation(self.window_frequencies, positions, x.dtype))
        elif self.config.window is not None:
            rotations *= 2
        return x, rotations

    def _rotation(self, frequencies: Tensor, positions: Tensor, dtype: torch.dtype) -> Rotation:
        angles = positions[..., None, None].float() * frequencies.float()
        if positions.ndim == 3:
            angles = turn_sections(angles, self.config.rotary_sections)
        angles = torch.cat([angles, angles], dim=-1)
        scale = self.config.rotary_scale
        return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)
