"""The causal language model that is served: an image prefix, one fused projection before attention, our cache.

Source of the layers: BioGPT (Luo et al., 2022), which is GPT-2's pre-norm transformer, and Llama (Touvron et al.,
2023): RMS norm, rotary positions, grouped heads, gated feed-forward. Published weights are read by `TransformersLM`,
with which this one agrees.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, rms_norm, silu

from prelim.decoders.attention import Attending
from prelim.decoders.decoder import IMAGE
from prelim.decoders.kv_cache import KVCache, Places
from prelim.decoders.linear import AdaptedLinear
from prelim.decoders.step_attention import StepAttention
from prelim.decoders.teacher_forcing import check_positions, insert_images, join
from prelim.decoders.token_embedding import TokenEmbedding, draw_weights

if TYPE_CHECKING:
    from prelim.kernels.causal_lm_step import CompiledStep

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu, "silu": silu}
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
    attention_bias, out_bias, feedforward_bias : which projections have one
    tied            : tokens are scored by their embeddings
    image_token_id  : id of each token of an image where `generate` gets the prompt as ids, which then count in
                      repetition penalties; None where it gets embeddings
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
    attention_bias: bool = False
    out_bias: bool = False
    feedforward_bias: bool = False
    tied: bool = False
    image_token_id: int | None = None
    adapters: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, allowed in (("norm", NORMS), ("activation", tuple(ACTIVATIONS))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; known: {', '.join(allowed)}")
        if self.image_token_id is not None and not 0 <= self.image_token_id < self.vocab_size:
            raise ValueError(f"image_token_id is {self.image_token_id!r}; allowed: 0 to {self.vocab_size - 1}")


class _Norm(nn.Module):
    """Layer norm with a bias, or RMS norm without (Zhang and Sennrich, 2019)."""

    def __init__(self, config: CausalLMConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.width))
        self.bias = nn.Parameter(torch.zeros(config.width)) if config.norm == "layer_norm" else None
        self.eps = config.norm_eps

    def both(self) -> Tensor:
        """Weight and bias, shape (2, width); zeros where there is no bias."""
        return torch.stack([self.weight, torch.zeros_like(self.weight) if self.bias is None else self.bias])

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return rms_norm(x, self.weight.shape, self.weight, self.eps)
        return layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class _Layer(nn.Module):
    """Attention and feed-forward, each normalized before and added after (pre-norm)."""

    def __init__(self, config: CausalLMConfig) -> None:
        super().__init__()
        c = config
        self.heads, self.kv_heads = c.heads, c.kv_heads or c.heads
        self.head_width = c.head_width or c.width // c.heads
        self.gated = c.gated
        self.activation = ACTIVATIONS[c.activation]
        self.norm1 = _Norm(c)
        self.qkv = nn.Linear(c.width, (self.heads + 2 * self.kv_heads) * self.head_width, bias=c.attention_bias)
        self.out = nn.Linear(self.heads * self.head_width, c.width, bias=c.out_bias)
        self.norm2 = _Norm(c)
        self.up = nn.Linear(c.width, (2 if c.gated else 1) * c.feedforward, bias=c.feedforward_bias)
        self.down = nn.Linear(c.feedforward, c.width, bias=c.feedforward_bias)
        for name, rank in c.adapters.items():
            setattr(self, name, AdaptedLinear(getattr(self, name), rank))

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        places: Places | None,
        layer: int,
        attending: Attending | StepAttention,
    ) -> Tensor:
        """One layer, shape (sequences, queries, width) in and out.

        rotation : cosines and sines of rotary positions, each of shape (sequences, queries, 1, head_width)
        places   : of these tokens in the cache; None attends among these tokens alone
        layer    : its number
        """
        sequences, queries, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(sequences, queries, -1, self.head_width)
        if rotation is not None:
            turning = qkv[:, :, : self.heads + self.kv_heads]
            turning.copy_(_rotate(turning, *rotation))
        key_value = qkv[:, :, self.heads :].unflatten(2, (2, self.kv_heads)).permute(2, 0, 3, 1, 4)
        keys, values = key_value if places is None else places.store(key_value, layer)
        gathered = attending(qkv[:, :, : self.heads].transpose(1, 2), keys, values)
        x = x + self.out(gathered.transpose(1, 2).reshape(sequences, queries, -1))
        y = self.up(self.norm2(x))
        if self.gated:
            gate, y = y.chunk(2, dim=-1)
            y = self.activation(gate) * y
        else:
            y = self.activation(y)
        return x + self.down(y)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions, halves of a head as pairs. Source: Su et al., "RoFormer", 2021, as in `transformers`."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


class CausalLMState:
    """The cache is all that a causal language model remembers."""

    def __init__(self, cache: KVCache) -> None:
        self.cache = cache

    def move(self, source: int, target: int, columns: int) -> None:
        """Copy one slot over another; the first `columns` columns of its cache are in use."""
        self.cache.move(source, target, columns)

    def clear(self, slot: int, columns: int) -> None:
        """Forget a request; the first `columns` columns of its slot's cache are in use."""
        self.cache.clear(slot, columns)


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
        else:
            rows = c.max_positions + c.position_offset
            self.positions = nn.Embedding(rows, c.width, _weight=draw_weights(rows, c.width))
        self.layers = nn.ModuleList(_Layer(c) for _ in range(c.layers))
        self.norm = _Norm(c)
        self.lm_head = None if c.tied else nn.Linear(c.width, c.vocab_size, bias=False)
        self.compiled: CompiledStep | None = None
        self.not_compiled: str | None = "it was not packed"
        self.step_attending: type[Attending | StepAttention] = Attending

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.norm.weight.device

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

    def prefill(self, state: CausalLMState, places: Places, image_embeds: Tensor, prompt_ids: Tensor) -> Tensor:
        """Logits of the first token to write, shape (slots, vocab_size); see `Decoder.prefill`."""
        embeds = self._embed_prefix(image_embeds, prompt_ids)
        hidden = self._hidden(embeds, places.columns, places, Attending(causal=True))
        return self._score(hidden[:, -1])

    def teacher_forcing(self, image_embeds: Tensor, prompt_ids: Tensor, report_ids: Tensor) -> Tensor:
        """Logits of given reports, shape (batch, report_length, vocab_size); see `Decoder.teacher_forcing`."""
        text = join(prompt_ids, report_ids, pad_token_id=0)
        embeds = self._embed_prefix(image_embeds, text.token_ids)
        check_positions(embeds.shape[1], self.max_positions)
        positions = torch.arange(embeds.shape[1], device=embeds.device).expand(len(embeds), -1)
        return self._score(text.scoring(self._hidden(embeds, positions, None, Attending(causal=True))))

    def step(self, state: CausalLMState, places: Places, token_ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Logits of the next token, shape (slots, rows, vocab_size); see `Decoder.step`."""
        embeds = self._embed(token_ids)
        if self.compiled is not None:
            return self.compiled(
                *self._add_positions(embeds, positions), mask, places.layers, places.columns, places.slots
            )
        return self._score(self._hidden(embeds, positions, places, self.step_attending(mask)))

    def _embed_prefix(self, image_embeds: Tensor, token_ids: Tensor) -> Tensor:
        """Embeddings of tokens, Tensor of shape (batch, length, width), those of the images where IMAGE is."""
        return insert_images(self._embed, image_embeds.to(self.norm.weight.dtype), token_ids)

    def _embed(self, token_ids: Tensor) -> Tensor:
        return self.words(token_ids).to(self.norm.weight.dtype) * self.config.embedding_scale

    def _score(self, hidden: Tensor) -> Tensor:
        return self.words.scores(hidden) if self.lm_head is None else self.lm_head(hidden)

    def _hidden(
        self, x: Tensor, positions: Tensor, places: Places | None, attending: Attending | StepAttention
    ) -> Tensor:
        x, rotation = self._add_positions(x, positions)
        for i, layer in enumerate(self.layers):
            x = layer(x, rotation, places, i, attending)
        return self.norm(x)

    def _add_positions(self, x: Tensor, positions: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Embeddings with their positions, or with the rotation (cosines and sines) that encodes these."""
        if self.positions is None:
            return x, self._rotation(positions, x.dtype)
        return x + self.positions(positions + (self.config.position_offset or 0)), None

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each of shape (sequences, queries, 1, head_width)."""
        angles = positions[:, :, None, None].float() * self.inverse_frequencies.float()
        angles = torch.cat([angles, angles], dim=-1)
        scale = self.config.rotary_scale
        return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)
