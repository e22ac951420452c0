"""The cross-attention decoder: a transformer decoder that looks at the image in every layer.

Source: Vaswani et al., "Attention Is All You Need", 2017, with learned positions. The defaults are those of
torch.nn.TransformerDecoder (system 1); Keras transformers (system 4), BERT and GPT-2 with cross-attention set others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding, gelu, relu

from prelim.decoders.attention import Attending, Attention, KeyValue
from prelim.decoders.decoder import Grids
from prelim.decoders.kv_cache import KVCache, Places
from prelim.decoders.step_attention import StepAttention
from prelim.decoders.teacher_forcing import check_positions, join
from prelim.decoders.token_embedding import TokenEmbedding, draw_weights

if TYPE_CHECKING:
    from prelim.kernels.cross_attention_step import CrossAttentionStep

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
}
"""Of the feed-forward and of the head's hidden layer."""


@dataclass(frozen=True)
class CrossAttentionConfig:
    """Dimensions of a cross-attention decoder, as in section `decoder` of model.yaml.

    dropout          : rate for attention weights and for what the feed-forward gives
    hidden_dropout   : rate for what attention gives and inside the feed-forward; None: as `dropout`
    head_width       : of one attention head; None shares the width among the heads
    norm_eps         : of every layer norm
    embedding_scale  : factor of token embeddings, before positions are added
    blank_padding    : padding has no embedding, and as a query it gets the mean of what it may look at;
                       otherwise it is only hidden from later tokens
    feedforward_relu : the second layer of the feed-forward has a ReLU as well
    head_hidden      : width of a layer with an activation before the vocabulary; None: no such layer
    head_norm        : a norm follows that layer
    activation       : one of ACTIVATIONS
    pre_norm         : each part of a layer normalizes what it reads, and a norm follows the last layer; otherwise each
                       part's sum is normalized
    embedding_norm   : a norm follows the embeddings
    tied             : tokens are scored by their embeddings
    image_width      : of image_embeds; None: `width`
    hide_padding     : padding that the model itself wrote is hidden from later tokens, as in systems 1 and 4
    """

    vocab_size: int
    width: int
    layers: int
    heads: int
    feedforward: int
    max_positions: int
    dropout: float = 0.1
    pad_token_id: int = 0
    hidden_dropout: float | None = None
    head_width: int | None = None
    norm_eps: float = 1e-5
    embedding_scale: float = 1.0
    blank_padding: bool = False
    feedforward_relu: bool = False
    head_hidden: int | None = None
    head_norm: bool = False
    activation: str = "relu"
    pre_norm: bool = False
    embedding_norm: bool = False
    tied: bool = False
    image_width: int | None = None
    hide_padding: bool = True

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}; known: {', '.join(ACTIVATIONS)}")
        if self.head_norm and self.head_hidden is None:
            raise ValueError("head_norm needs head_hidden")
        if self.tied and self.head_hidden not in (None, self.width):
            raise ValueError(
                f"head_hidden is {self.head_hidden}; with tied embeddings it must be the width, {self.width}"
            )


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, each added to what it reads."""

    def __init__(self, config: CrossAttentionConfig) -> None:
        super().__init__()
        c = config
        self.self_attention = Attention(c.width, c.heads, c.head_width, c.dropout)
        self.cross_attention = Attention(c.width, c.heads, c.head_width, c.dropout, c.image_width)
        self.linear1 = nn.Linear(c.width, c.feedforward)
        self.linear2 = nn.Linear(c.feedforward, c.width)
        self.norm1 = nn.LayerNorm(c.width, c.norm_eps)
        self.norm2 = nn.LayerNorm(c.width, c.norm_eps)
        self.norm3 = nn.LayerNorm(c.width, c.norm_eps)
        self.dropout = c.dropout
        self.hidden_dropout = c.dropout if c.hidden_dropout is None else c.hidden_dropout
        self.feedforward_relu = c.feedforward_relu
        self.pre_norm = c.pre_norm
        self.activation = ACTIVATIONS[c.activation]

    def forward(
        self,
        x: Tensor,
        image: KeyValue,
        places: Places | None,
        layer: int,
        *,
        attending: Attending | StepAttention,
        sighted: Tensor | None,
    ) -> Tensor:
        """One layer.

        places  : of these tokens in the cache; None attends among these tokens alone
        layer   : its number
        sighted : Tensor of 0 and 1, shape (sequences, 1, queries, 1), 0 where a query gets the mean of what it may
                  look at; None: nowhere
        """

        def attend_text(x: Tensor) -> Tensor:
            query, key, value = self.self_attention.query_key_value(x)
            if places is not None:
                key, value = places.store(torch.stack([key, value]), layer)
            # A query of zeros scores everything alike.
            query = query if sighted is None else query * sighted
            return self._drop_hidden(self.self_attention.attend(query, key, value, attending))

        def attend_image(x: Tensor) -> Tensor:
            query = self.cross_attention.query(x)
            query = query if sighted is None else query * sighted
            return self._drop_hidden(self.cross_attention.attend(query, *image, attending.everywhere))

        x = self._add(self.norm1, attend_text, x)
        x = self._add(self.norm2, attend_image, x)
        return self._add(self.norm3, self._feed_forward, x)

    def _add(self, norm: nn.Module, part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What a part of the layer makes of x, added to x."""
        y: Tensor = x + part(norm(x)) if self.pre_norm else norm(x + part(x))
        return y

    def _feed_forward(self, x: Tensor) -> Tensor:
        y = self.linear2(self._drop_hidden(self.activation(self.linear1(x))))
        return dropout(relu(y) if self.feedforward_relu else y, self.dropout, self.training)

    def image_key_value(self, image_embeds: Tensor) -> KeyValue:
        """Cross-attention keys and values of images, image_embeds of shape (images, num_tokens, width)."""
        return self.cross_attention.key_value(image_embeds)

    def _drop_hidden(self, x: Tensor) -> Tensor:
        return dropout(x, self.hidden_dropout, self.training)


class CrossAttentionState:
    """Self-attention cache and the image's keys and values, for a fixed number of slots.

    images : keys and values of every layer, for all slots; none before the first image
    """

    def __init__(self, cache: KVCache, slots: int) -> None:
        self.cache = cache
        self._slots = slots
        self.images: list[KeyValue] = []

    @property
    def tensors(self) -> Sequence[Tensor]:
        """The cache's, and those of the images."""
        return [*self.cache.layers, *(tensor for image in self.images for tensor in image)]

    def image(self, slots: slice) -> list[KeyValue]:
        """Keys and values of the images in these slots, for every layer."""
        return [(key[slots], value[slots]) for key, value in self.images]

    def store_image(self, slots: slice, image: list[KeyValue]) -> None:
        """Remember new images; all images of a model have the same number of tokens."""
        if not self.images:
            self.images = [
                (k.new_zeros(self._slots, *k.shape[1:]), v.new_zeros(self._slots, *v.shape[1:])) for k, v in image
            ]
        for (key, value), (new_key, new_value) in zip(self.images, image, strict=True):
            key[slots], value[slots] = new_key, new_value

    def move(self, source: int, target: int, columns: int) -> None:
        """Copy one slot over another; the first `columns` columns of its cache are in use."""
        self.cache.move(source, target, columns)
        for key, value in self.images:
            key[target], value[target] = key[source], value[source]

    def clear(self, slot: int, columns: int) -> None:
        """Forget a request and its image; the first `columns` columns of its slot's cache are in use."""
        self.cache.clear(slot, columns)
        for key, value in self.images:
            key[slot], value[slot] = 0, 0


class CrossAttentionDecoder(nn.Module):
    """Token and position embeddings, the layers, and the projection to the vocabulary.

    compiled       : replaces everything after looking up words in `step`, where there is one (see `pack`)
    not_compiled   : why there is none
    step_attending : makes the attention of `step` from its mask
    """

    def __init__(self, config: CrossAttentionConfig) -> None:
        super().__init__()
        self.config = config
        self.compiled: CrossAttentionStep | None = None
        self.not_compiled: str | None = "it was not packed"
        self.step_attending: type[Attending | StepAttention] = Attending
        self.max_positions = config.max_positions
        # The published implementations of systems 1 and 4 mask padding by its id, also where the model wrote it.
        self.hidden_from_all: int | None = config.pad_token_id if config.hide_padding else None
        self.token_embedding = TokenEmbedding(config.vocab_size, config.width)
        self.position_embedding = nn.Parameter(draw_weights(config.max_positions, config.width, std=0.02))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.embedding_norm = nn.LayerNorm(config.width, config.norm_eps) if config.embedding_norm else None
        self.norm = nn.LayerNorm(config.width, config.norm_eps) if config.pre_norm else None
        self.lm_hidden = None if config.head_hidden is None else nn.Linear(config.width, config.head_hidden)
        self.lm_norm = nn.LayerNorm(config.head_hidden, config.norm_eps) if config.head_norm else None
        self.lm_head = None if config.tied else nn.Linear(config.head_hidden or config.width, config.vocab_size)
        self.lm_bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.tied else None

    def image_key_values(self, image_embeds: Tensor) -> list[KeyValue]:
        """Cross-attention keys and values of every layer, computed once per image and shared by its beams.

        image_embeds : Tensor, shape (images, num_tokens, image_width)
        """
        return [layer.image_key_value(image_embeds) for layer in self._layers()]

    def hidden_states(
        self,
        token_ids: Tensor,
        positions: Tensor,
        image: list[KeyValue],
        places: Places | None,
        attending: Attending | StepAttention,
    ) -> Tensor:
        """The last layer's output.

        token_ids : Tensor of int64, shape (sequences, queries)
        positions : Tensor of int64, shape (sequences, queries)
        image     : what `image_key_values` gave, for the same sequences
        places    : of these tokens in the cache; None attends among these tokens alone
        attending : attention with the mask of these queries
        returns   : Tensor, shape (sequences, queries, width)
        """
        x, blank = self._embed(token_ids, positions)
        sighted = None if blank is None else (~blank).to(x.dtype)[:, None, :, None]
        for i, layer in enumerate(self._layers()):
            x = layer(x, image[i], places, i, attending=attending, sighted=sighted)
        return x if self.norm is None else self.norm(x)

    def _embed(self, token_ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the first layer reads, shape (sequences, queries, width), and which tokens are padding that has none.

        The latter is a Tensor of bool, shape (sequences, queries), or None where padding has an embedding.
        """
        x = self.token_embedding(token_ids) * self.config.embedding_scale
        x = x + embedding(positions, self.position_embedding)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        if not self.config.blank_padding:
            return x, None
        blank = token_ids == self.config.pad_token_id
        return x * (~blank).to(x.dtype)[..., None], blank

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, shape (..., vocab_size), for hidden states of shape (..., width)."""
        if self.lm_hidden is not None:
            hidden = ACTIVATIONS[self.config.activation](self.lm_hidden(hidden))
        if self.lm_norm is not None:
            hidden = self.lm_norm(hidden)
        if self.lm_head is not None:
            return self.lm_head(hidden)
        return self.token_embedding.scores(hidden) + cast("Tensor", self.lm_bias)

    def teacher_forcing(
        self, image_embeds: Tensor, prompt_ids: Tensor, report_ids: Tensor, grids: Grids = ()
    ) -> Tensor:
        """Logits of given reports, shape (batch, report_length, vocab_size); see `Decoder.teacher_forcing`."""
        text = join(prompt_ids, report_ids, self.config.pad_token_id)
        length = text.token_ids.shape[1]
        check_positions(length, self.max_positions)
        positions = torch.arange(length, device=text.token_ids.device).expand_as(text.token_ids)
        seen = torch.ones(length, length, dtype=torch.bool, device=positions.device).tril()
        if self.hidden_from_all is not None:
            # As in generation, padding that the model itself wrote is hidden, and a prompt never is.
            own = (text.token_ids != self.hidden_from_all) | (positions < text.prompt_lengths)
            seen = seen & own[:, None, None]
        image = self.image_key_values(image_embeds.to(self.position_embedding.dtype))
        attending = Attending(seen)
        return self.logits(text.scoring(self.hidden_states(text.token_ids, positions, image, None, attending)))

    def served(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Section `decoder` of an archive's model.yaml, and the weights: this very decoder is served."""
        return {"kind": "cross_attention", **asdict(self.config)}, self.state_dict()

    def _layers(self) -> list[DecoderLayer]:
        return cast("list[DecoderLayer]", list(self.layers))

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.position_embedding.device

    @property
    def reads_together(self) -> bool:
        """No: matrix kernels choose the order of their sums by the number of rows."""
        return False

    reads_in_parts = reads_together

    def new_state(self, slots: int) -> CrossAttentionState:
        """An empty cache with room for `slots` requests."""
        c = self.config
        cache = KVCache(
            layers=c.layers,
            heads=c.heads,
            head_width=c.head_width or c.width // c.heads,
            dtype=self.position_embedding.dtype,
            device=self.device,
        )
        return CrossAttentionState(cache, slots)

    def history(self, prompt_ids: tuple[int, ...]) -> tuple[int, ...]:
        """All of the prompt, as `generate` counts it for encoder-decoder models."""
        return prompt_ids

    def next_position(self, prompt_ids: tuple[int, ...], grids: Grids) -> int:
        """Position of the first token after a prefix; see `Decoder.next_position`."""
        return len(prompt_ids)

    def prefill(
        self, state: CrossAttentionState, places: Places, image_embeds: Tensor, prompt_ids: Tensor, grids: Grids = ()
    ) -> Tensor:
        """Logits of the first token to write, shape (slots, vocab_size); see `Decoder.prefill`."""
        length = prompt_ids.shape[1]
        state.store_image(places.slots, self.image_key_values(image_embeds.to(self.position_embedding.dtype)))
        causal = (
            torch.ones(length, length, dtype=torch.bool, device=self.device).tril().expand(len(prompt_ids), 1, -1, -1)
        )
        image = state.image(places.slots)
        hidden = self.hidden_states(prompt_ids, places.columns, image, places, Attending(causal))
        return self.logits(hidden[:, -1])

    def step(
        self, state: CrossAttentionState, places: Places, token_ids: Tensor, positions: Tensor, mask: Tensor
    ) -> Tensor:
        """Logits of the next token, shape (slots, rows, vocab_size); see `Decoder.step`."""
        if self.compiled is not None:
            words = self.token_embedding.words(token_ids)
            return self.compiled(
                words, token_ids, positions, mask, places.layers, places.columns, state.images, places.slots
            )
        return self.logits(
            self.hidden_states(token_ids, positions, state.image(places.slots), places, self.step_attending(mask))
        )
