"""What the engine needs of a decoder."""

from collections.abc import Sequence
from itertools import repeat
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from prelim.decoders.kv_cache import KVCache, Places

IMAGE = -1
"""Placeholder in a prompt for the embeddings of an image, for decoders that read images as a prefix.

It stands for all tokens of one image, or, after `expand_images`, for one of them.
"""

Grids = Sequence[tuple[int, int]]
"""Rows and columns of the tokens of each image, in their order in the prompt."""

PADDING = -100
"""Fills the rows of a batch of token ids that are shorter than the longest one; cross-entropy ignores it."""


def expand_images(prompt_ids: tuple[int, ...], image_tokens: Sequence[int]) -> tuple[int, ...]:
    """A prompt in which IMAGE stands for one token, of one in which it stands for an image.

    image_tokens : number of tokens of each image, in their order in the prompt

    Raises ValueError where the prompt has another number of places, unless it has none.
    """
    if IMAGE not in prompt_ids:
        return prompt_ids
    if prompt_ids.count(IMAGE) != len(image_tokens):
        raise ValueError(f"the prompt has {prompt_ids.count(IMAGE)} places for {len(image_tokens)} images")
    lengths = iter(image_tokens)
    return tuple(
        expanded
        for token_id in prompt_ids
        for expanded in (repeat(IMAGE, next(lengths)) if token_id == IMAGE else (token_id,))
    )


class DecoderState(Protocol):
    """Everything a decoder remembers of the requests in its slots."""

    cache: KVCache

    @property
    def tensors(self) -> Sequence[Tensor]:
        """All that a step reads or writes, once it has room for the requests in its slots."""

    def move(self, source: int, target: int, columns: int) -> None:
        """Copy one slot over another; the first `columns` columns of its cache are in use."""

    def clear(self, slot: int, columns: int) -> None:
        """Forget a request; the first `columns` columns of its slot's cache are in use."""


State = TypeVar("State", bound=DecoderState)


class Decoder(Protocol[State]):
    """A network that writes the next token of every row of every slot.

    max_positions  : maximum length of a sequence in positions, prefix included
    hidden_from_all : id of a token that no later token may look at, None where there is none
    not_compiled   : why its steps are not compiled, None where they are
    """

    max_positions: int
    hidden_from_all: int | None
    not_compiled: str | None

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""

    @property
    def reads_together(self) -> bool:
        """Whether `prefill` gives the same, bit for bit, for one prefix and for several at once, and sooner then."""

    @property
    def reads_in_parts(self) -> bool:
        """Whether the parts of a prefix may be read one after the other; keys and values are the same, bit for bit."""

    def new_state(self, slots: int) -> State:
        """An empty cache with room for `slots` requests."""

    def history(self, prompt_ids: tuple[int, ...]) -> tuple[int, ...]:
        """The ids that repetition penalties and the ban of repeated n-grams take into account.

        prompt_ids : with IMAGE for each token of an image
        """

    def next_position(self, prompt_ids: tuple[int, ...], grids: Grids) -> int:
        """Position of the first token after a prefix.

        prompt_ids : with IMAGE for each token of an image
        grids      : of its images; empty where they have none, which decoders that place tokens by them refuse
        """

    def prefill(
        self, state: State, places: Places, image_embeds: Tensor, prompt_ids: Tensor, grids: Grids = ()
    ) -> Tensor:
        """Read the prefix of new requests into their slots, or a part of it.

        places       : in `state.cache`, of the tokens that are read; columns are their places in the prefix. Those
                       before have been read
        image_embeds : Tensor, shape (slots, num_tokens, width), of all images of a request, one after the other
        prompt_ids   : Tensor of int64, shape (slots, prompt_length), with IMAGE for each token of an image, at the
                       same places in all of them
        grids        : of the images of each request, as `next_position` takes them
        returns      : logits of what follows the last of these tokens, Tensor, shape (slots, vocab_size)
        """

    def step(self, state: State, places: Places, token_ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Read one token for every row.

        places    : of these tokens in `state.cache`
        token_ids : Tensor of int64, shape (slots, rows)
        positions : Tensor of int64, shape (slots, rows)
        mask      : Tensor of bool, shape (slots, 1, rows, columns), True where a row may look
        returns   : logits of the next token, Tensor, shape (slots, rows, vocab_size)
        """

    def teacher_forcing(
        self, image_embeds: Tensor, prompt_ids: Tensor, report_ids: Tensor, grids: Grids = ()
    ) -> Tensor:
        """Score given reports: what `prefill` and `step` would compute while writing them, without a cache.

        image_embeds : Tensor, shape (batch, num_tokens, width)
        prompt_ids   : Tensor of int64, shape (batch, prompt_length), padded on the right with PADDING; IMAGE, for
                       an equal share of num_tokens, is at the same places in all rows
        report_ids   : Tensor of int64, shape (batch, report_length), padded on the right with PADDING
        grids        : of the images of each row, as `next_position` takes them
        returns      : logits, Tensor, shape (batch, report_length, vocab_size); logits[:, i] scores report_ids[:, i]
                       given the image, the prompt and report_ids[:, :i]. They mean nothing where report_ids is PADDING

        Raises TooManyPositions for more positions than the decoder has.
        """
