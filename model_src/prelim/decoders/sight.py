"""What the tokens of a prefix see of each other, by kind of layer.

Source: Beltagy et al., "Longformer", 2020 (sliding windows); Gemma Team, "Gemma 3 Technical Report", 2025 (tokens of an
image).
"""

import torch
from torch import Tensor

from prelim.decoders.decoder import IMAGE


def near(positions: Tensor, others: Tensor, window: int) -> Tensor:
    """Whether others are at most as far back as a window reaches, whose last position is the token's own."""
    return positions - others < window


def prefix_sight(num_tokens: int, token_ids: Tensor, window: int | None, *, mutual: bool) -> list[Tensor | None]:
    """What each embedding that `insert_images` gives sees: in layers without a window, and in those with one.

    num_tokens : of all images
    token_ids  : as `insert_images` gets them; images next to each other are one
    window     : positions that a token sees, itself the last; None: there are no layers with a window
    mutual     : tokens of an image see each other, else only what is before them, as text does
    returns    : each of shape (1, 1, length, length), of bool; None: everything before a token, and itself
    """
    places = token_ids[0] == IMAGE
    of_image = places.repeat_interleave(torch.where(places, num_tokens // max(int(places.sum()), 1), 1))
    length = len(of_image)
    if not mutual and (window is None or length <= window):
        return [None] if window is None else [None, None]
    positions = torch.arange(length, device=of_image.device)
    sight = positions[:, None] >= positions
    if mutual:
        starts = of_image & ~torch.nn.functional.pad(of_image, (1, 0))[:-1]
        image = torch.where(of_image, starts.cumsum(0), 0)
        sight |= (image[:, None] == image) & of_image
    whole = sight[None, None] if mutual else None
    if window is None:
        return [whole]
    return [whole, (sight & near(positions[:, None], positions, window))[None, None]]


def mask_of(sight: Tensor | None, positions: Tensor, length: int) -> Tensor:
    """One of the sights above as these positions have it, shape (slots, 1, positions, length), of bool.

    positions : Tensor of int64, shape (slots, positions), the same in all slots
    length    : positions that may be seen
    """
    if sight is None:
        return positions[:, None, :, None] >= torch.arange(length, device=positions.device)
    return sight[:, :, positions[0], :length].expand(len(positions), -1, -1, -1)
