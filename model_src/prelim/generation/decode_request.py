"""The record of one request, from entering the engine to leaving it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from prelim.decoders.decoder import IMAGE, Grids, expand_images
from prelim.errors import InvalidOption, RequestError, TooLarge
from prelim.generation.hypothesis import Hypothesis
from prelim.generation.options import GenerationOptions
from prelim.generation.outcome import Outcome
from prelim.generation.selection import TokenSelection


@dataclass(eq=False)
class DecodeRequest:
    """One report to decode. Callers set the first three fields and `grids`, and the engine the others.

    image_embeds : Tensor, shape (num_tokens, decoder width); None where `embed` computes it
    prompt_ids   : tokens before the first generated one, the decoder's start token included; IMAGE is where an
                   image's embeddings go, in decoders that read them as a prefix
    options      : how to choose the tokens
    grids        : of the images, for decoders that place tokens by them
    request_id   : name of the request in its engine
    selection    : chooses its tokens; None while it waits for a slot
    tokens       : which the next step reads: of every row, or that of a single row and drafts of those that come after
                   it
    position     : of these tokens, and of the first of a single row
    outcome      : its sequences or its error; None until it has ended
    """

    image_embeds: Tensor | None
    prompt_ids: tuple[int, ...]
    options: GenerationOptions
    grids: Grids = field(default=(), kw_only=True)
    request_id: str = field(default="", init=False)
    selection: TokenSelection | None = field(default=None, init=False)
    tokens: Sequence[int] = field(default=(), init=False)
    position: int = field(default=0, init=False)
    outcome: Outcome | None = field(default=None, init=False)

    @property
    def drafts(self) -> int:
        """How many of its tokens are drafts."""
        return max(len(self.tokens) - self.options.rows, 0)

    @property
    def image_tokens(self) -> tuple[int, ...]:
        """Number of tokens of each image; before image_embeds are computed the most that they can be.

        Without grids they are equal shares.
        """
        if self.grids:
            return tuple(rows * columns for rows, columns in self.grids)
        images = max(self.prompt_ids.count(IMAGE), 1)
        return (0 if self.image_embeds is None else len(self.image_embeds) // images,) * images

    @property
    def prefix_ids(self) -> tuple[int, ...]:
        """The prompt with IMAGE for each token of an image, see `image_tokens`; as many cache columns does it take."""
        return expand_images(self.prompt_ids, self.image_tokens)

    def check_positions(self, positions: int) -> None:
        """Raise TooLarge or InvalidOption for more tokens than a decoder has positions."""
        prefix = len(self.prefix_ids)
        room = positions - prefix + 1
        if room < 1:
            raise TooLarge(
                f"image and prompt take {prefix} positions; this model has {positions}, so none is left for a report; "
                "shorten the prompt",
                "prompt",
            )
        if self.options.max_new_tokens > room:
            raise InvalidOption(
                f"max_new_tokens is {self.options.max_new_tokens}; this model has {positions} "
                f"positions and the prompt takes {prefix}, so at most {room} are possible",
                "max_new_tokens",
            )

    def read(self) -> None:
        """Begin to read the images in the background; may be called again, and before there is a slot."""

    @property
    def is_read(self) -> bool:
        """Whether `embed` need not wait until its images are read."""
        return True

    def embed(self, others: Iterable["DecodeRequest"] = ()) -> Tensor:
        """The image_embeds; called once, after `read`, when there is a slot. `grids` are set then.

        A subclass may compute them here, and raise RequestError where that fails.

        others : requests that enter with it, whose turn is next: a subclass may do some of their work with its own
        """
        if self.image_embeds is None:
            raise ValueError("the request has no image_embeds, and its class computes none")
        return self.image_embeds

    @property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """Its sequences, best first. Raises the RequestError that ended it, ValueError while it has not ended."""
        if isinstance(self.outcome, RequestError):
            raise self.outcome
        if self.outcome is None:
            raise ValueError("the request has not ended")
        return self.outcome
