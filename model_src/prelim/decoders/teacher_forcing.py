"""Teacher forcing: prompt and report in one sequence, so that one forward pass scores every token of a given report.

Source: Williams and Zipser, "A Learning Algorithm for Continually Running Fully Recurrent Neural Networks", 1989.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prelim.decoders.decoder import IMAGE, PADDING
from prelim.errors import PrelimError


class TooManyPositions(PrelimError):
    """Image, prompt and report together are longer than the decoder's positions."""


@dataclass(frozen=True)
class ForcedText:
    """What a decoder reads to score given reports.

    token_ids      : Tensor of int64, shape (batch, length): each row's prompt, its report without the last token,
                     then padding. No padding is between prompt and report, so causal attention needs no mask for it
    prompt_lengths : Tensor of int64, shape (batch, 1)
    report_length  : of the longest report
    """

    token_ids: Tensor
    prompt_lengths: Tensor
    report_length: int

    def scoring(self, hidden: Tensor) -> Tensor:
        """Select the hidden states that score the report.

        hidden  : Tensor, shape (batch, length, width); longer where the image's tokens replaced IMAGE in the prompt
        returns : Tensor, shape (batch, report_length, width)
        """
        batch, length, width = hidden.shape
        first = self.prompt_lengths - 1 + length - self.token_ids.shape[1]
        places = (first + torch.arange(self.report_length, device=hidden.device)).clamp(max=length - 1)
        return hidden.gather(1, places[..., None].expand(batch, -1, width))


def insert_images(embed: Callable[[Tensor], Tensor], image_embeds: Tensor, token_ids: Tensor) -> Tensor:
    """Embed tokens, with the tokens of images where IMAGE is, an equal share for each.

    embed        : Tensor of int64, shape (batch, length) -> embeddings, shape (batch, length, width)
    image_embeds : Tensor, shape (batch, num_tokens, width), of all images, one after the other
    token_ids    : Tensor of int64, shape (batch, length), IMAGE at the same positions in every row

    Raises ValueError as `spread_images` does.
    """
    whole = spread_images(image_embeds.shape[1], token_ids)
    of_images = whole[0] == IMAGE
    embeds = embed(whole.masked_fill(of_images, 0))
    return embeds.index_copy(1, of_images.nonzero().flatten(), image_embeds.to(embeds.dtype))


def spread_images(num_tokens: int, token_ids: Tensor) -> Tensor:
    """Token ids with IMAGE for each token of an image, Tensor of int64, shape (batch, whole length).

    num_tokens : of all images, an equal share for each IMAGE
    token_ids  : as `insert_images` gets them

    Raises ValueError where there is no IMAGE, or the tokens cannot be shared.
    """
    places = token_ids[0] == IMAGE
    count = int(places.sum())
    if num_tokens % count if count else num_tokens:
        found = f"{count} places" if count else "no place"
        raise ValueError(f"the prompt has {found} for the images' {num_tokens} tokens")
    return token_ids.repeat_interleave(torch.where(places, num_tokens // max(count, 1), 1), dim=1)


def join(prompt_ids: Tensor, report_ids: Tensor, pad_token_id: int) -> ForcedText:
    """Join prompts and reports row by row.

    prompt_ids, report_ids : as `Decoder.teacher_forcing` gets them
    pad_token_id           : fills the end of shorter rows
    """
    # The last token of a report is scored and not read.
    read = report_ids[:, :-1].masked_fill(report_ids[:, 1:] == PADDING, PADDING)
    token_ids = torch.cat([prompt_ids, read], dim=1)
    padding = token_ids == PADDING
    order = padding.to(torch.uint8).argsort(dim=1, stable=True)
    length = int((~padding).sum(dim=1).max())
    token_ids = token_ids.gather(1, order)[:, :length]
    return ForcedText(
        token_ids=token_ids.masked_fill(token_ids == PADDING, pad_token_id),
        prompt_lengths=(prompt_ids != PADDING).sum(dim=1, keepdim=True),
        report_length=report_ids.shape[1],
    )


def check_positions(length: int, max_positions: int) -> None:
    """Raise TooManyPositions for a sequence that is longer than the decoder's positions."""
    if length > max_positions:
        raise TooManyPositions(
            f"image, prompt and report take {length} positions; this decoder has {max_positions}; shorten the report"
        )
