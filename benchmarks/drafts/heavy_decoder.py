"""The time of a large decoder with the texts of a small one."""

from typing import Any

from torch import Tensor

from prelim.decoders.decoder import Grids
from prelim.decoders.kv_cache import Places

_NEVER = -1e4
"""Logit of a token that is never chosen."""


class HeavyDecoder:
    """A decoder that writes the texts of one and takes the time of another, larger one.

    The larger one reads the same tokens, and its logits are overwritten by those of the first. Token selection has as
    many tokens to choose from as the larger one knows.
    """

    def __init__(self, decoder: Any, larger: Any, width: int) -> None:
        self._decoder, self._larger, self._width = decoder, larger, width

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def new_state(self, slots: int) -> Any:
        """A state of each decoder, of which the engine knows the first's."""
        self._state = self._larger.new_state(slots)
        return self._decoder.new_state(slots)

    def prefill(
        self, state: Any, places: Places, image_embeds: Tensor, prompt_ids: Tensor, grids: Grids = ()
    ) -> Tensor:
        """Logits of the first tokens; see `Decoder.prefill`."""
        nothing = image_embeds.new_empty(len(prompt_ids), 0, self._width)
        heavy = self._larger.prefill(self._state, self._places(state, places), nothing, prompt_ids, grids)
        return _overwritten(heavy, self._decoder.prefill(state, places, image_embeds, prompt_ids, grids))

    def step(self, state: Any, places: Places, *read: Tensor) -> Tensor:
        """Logits of the next tokens; see `Decoder.step`."""
        heavy = self._larger.step(self._state, self._places(state, places), *read)
        return _overwritten(heavy, self._decoder.step(state, places, *read))

    def _places(self, state: Any, places: Places) -> Places:
        """The same places in the larger one's cache."""
        cache = self._state.cache
        cache.reserve(state.cache.layers[0].shape[1], state.cache.columns)
        return cache.places(places.slots, places.columns, places.length)


def _overwritten(logits: Tensor, others: Tensor) -> Tensor:
    """Logits of a larger vocabulary that choose the same tokens as `others`."""
    logits.fill_(_NEVER)
    logits[..., : others.shape[-1]] = others
    return logits
