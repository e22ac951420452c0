"""Requests whose prefixes are being read into the cache, before their first tokens are chosen."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from prelim.decoders.decoder import IMAGE, Grids
from prelim.generation.decode_request import DecodeRequest
from prelim.kernels import ROWS_TOGETHER

Request = TypeVar("Request", bound=DecodeRequest)

TOGETHER = ROWS_TOGETHER
"""Tokens of prefixes that are read at once while nothing is decoded; more would not be read sooner."""

BETWEEN_STEPS = 96
"""The same between two steps of other requests, which wait for them: fewer cost tokens a second, see decision 0064."""


@dataclass
class PrefixReading(Generic[Request]):
    """Prefixes of one form, in the slots after those of requests that run: several are read at once, one also in parts.

    image_embeds : of each, Tensor, shape (num_tokens, width)
    done         : tokens of each that have been read
    """

    requests: list[Request]
    image_embeds: list[Tensor]
    done: int = 0

    @property
    def length(self) -> int:
        """Tokens of each prefix."""
        return len(self.requests[0].prefix_ids)

    @property
    def grids(self) -> Grids:
        """Of the images of each."""
        return self.requests[0].grids

    def has_form_of(self, request: Request) -> bool:
        """Whether the prefix of a request can be read with these."""
        return have_one_form(self.requests[0], request)

    def add(self, request: Request, image_embeds: Tensor) -> None:
        """Read another one with these."""
        self.requests.append(request)
        self.image_embeds.append(image_embeds)

    def drop(self, request_id: str) -> bool:
        """Forget a request; whether it was one of these."""
        for i, request in enumerate(self.requests):
            if request.request_id == request_id:
                del self.requests[i], self.image_embeds[i]
                return True
        return False

    def alone(self) -> Iterator["PrefixReading[Request]"]:
        """Each by itself."""
        for request, image_embeds in zip(self.requests, self.image_embeds, strict=True):
            yield PrefixReading([request], [image_embeds])


def have_one_form(one: DecodeRequest, other: DecodeRequest) -> bool:
    """Whether images and words have the same places in both prefixes, and images the same grids."""
    return one.grids == other.grids and _image_places(one.prefix_ids) == _image_places(other.prefix_ids)


def _image_places(prefix_ids: tuple[int, ...]) -> list[bool]:
    return [token_id == IMAGE for token_id in prefix_ids]
