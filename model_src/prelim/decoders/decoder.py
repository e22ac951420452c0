"""What the engine needs of a decoder."""

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from prelim.decoders.kv_cache import KVCache, Places

IMAGE = -1
"""Placeholder in a prompt for the embeddings of the image, for decoders that read the image as a prefix."""


class DecoderState(Protocol):
    """Everything a decoder remembers of the requests in its slots."""

    cache: KVCache

    def move(self, source: int, target: int, columns: int) -> None:
        """Copy one slot over another; the first `columns` columns of its cache are in use."""

    def clear(self, slot: int, columns: int) -> None:
        """Forget a request; the first `columns` columns of its slot's cache are in use."""


State = TypeVar("State", bound=DecoderState)


class Decoder(Protocol[State]):
    """A network that writes the next token of every row of every slot.

    max_positions  : how many positions, prefix included, it can tell apart
    hidden_from_all : id of a token that no later token may look at, None where there is none
    not_compiled   : why its steps are not compiled, None where they are
    """

    max_positions: int
    hidden_from_all: int | None
    not_compiled: str | None

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""

    def new_state(self, slots: int) -> State:
        """An empty memory for so many requests."""

    def prefix_length(self, num_tokens: int, prompt_ids: tuple[int, ...]) -> int:
        """How many cache columns an image of `num_tokens` tokens and this prompt take."""

    def history(self, prompt_ids: tuple[int, ...]) -> tuple[int, ...]:
        """What of the prompt counts as written already, for penalties on repetition."""

    def prefill(self, state: State, places: Places, image_embeds: Tensor, prompt_ids: Tensor) -> Tensor:
        """Read the prefix of new requests into their slots.

        places       : of the prefix in `state.cache`; its columns are its positions too
        image_embeds : Tensor, shape (slots, num_tokens, width)
        prompt_ids   : Tensor of int64, shape (slots, prompt_length); IMAGE is at the same place in all of them
        returns      : logits of the first token to write, Tensor, shape (slots, vocab_size)
        """

    def step(self, state: State, places: Places, token_ids: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Read one token for every row.

        places    : of these tokens in `state.cache`
        token_ids : Tensor of int64, shape (slots, rows)
        positions : Tensor of int64, shape (slots, rows)
        mask      : Tensor of bool, shape (slots, 1, rows, columns), True where a row may look
        returns   : logits of the next token, Tensor, shape (slots, rows, vocab_size)
        """
