"""Positions of the tokens of a prefix in time, in rows and in columns, for decoders that read images as grids.

Source: Wang et al., "Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution", 2024,
section 2.1 (multimodal rotary positions).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from prelim.decoders.decoder import IMAGE, Grids


def grid_positions(token_ids: Tensor, grids: Grids) -> Tensor:
    """Positions of each token, Tensor of int64, shape (3, length): in time, in rows and in columns.

    token_ids : Tensor of int64, shape (length,), with IMAGE for each token of an image
    grids     : of the images, in their order

    A token of text has the same position three times, the next one after all that is before it. All of an image is at
    one time; its rows and columns count from there.

    Raises ValueError for grids of other numbers of tokens.
    """
    of_image = (token_ids == IMAGE).nonzero().flatten().tolist()
    if len(of_image) != sum(rows * columns for rows, columns in grids):
        raise ValueError(f"the prompt has {len(of_image)} tokens of images; their grids are {list(grids)}")
    parts: list[Tensor] = []
    start = position = used = 0
    for rows, columns in grids:
        first, size = of_image[used], rows * columns
        if of_image[used + size - 1] != first + size - 1:
            raise ValueError(f"the tokens of an image with a grid of {rows} x {columns} are not next to each other")
        parts.append(_place_text(position, first - start))
        position += first - start
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        parts.append(position + torch.stack([torch.zeros_like(row), row, column]).flatten(1))
        start, used = first + size, used + size
        position += max(rows, columns)
    parts.append(_place_text(position, len(token_ids) - start))
    return torch.cat(parts, dim=1).to(token_ids.device)


def _place_text(position: int, length: int) -> Tensor:
    return torch.arange(position, position + length).expand(3, -1)


def turn_sections(angles: Tensor, sections: Sequence[int]) -> Tensor:
    """Angles of rotary positions, shape (..., frequencies), of those in time, rows and columns.

    angles   : Tensor, shape (3, ..., frequencies)
    sections : how many frequencies turn by time, rows, columns, time, and so on
    """
    return torch.cat([part[i % 3] for i, part in enumerate(torch.split(angles, list(sections), dim=-1))], dim=-1)
