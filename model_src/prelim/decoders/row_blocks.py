"""Tensors computed from other tensors a few rows at a time: of a large table only some rows are held in float32."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from prelim.decoders.weights_file import LazyTensor, Weights, materialize, row_blocks


def by_rows(
    source: Tensor | LazyTensor,
    convert: Callable[[Tensor], Sequence[Tensor]],
    made: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
) -> Weights:
    """Tensors whose rows are made of the same rows of another one.

    convert : some rows -> what they become in each of the tensors
    made    : shapes and dtypes by name

    The first is the large one, which is made and written in blocks. The others come with it, and are kept from then on.
    """
    kept: list[Tensor] = []

    def blocks() -> Iterator[Tensor]:
        others = []
        for rows in row_blocks(materialize(source)):
            first, *rest = convert(rows)
            others.append(rest)
            yield first
        kept[:] = [torch.cat(parts) for parts in zip(*others, strict=True)]

    def other(place: int) -> Tensor:
        if not kept:
            for _ in blocks():
                pass
        return kept[place]

    (first, (shape, dtype)), *rest = made.items()
    return {first: LazyTensor(shape, dtype, partial(_join, shape, dtype, blocks), blocks)} | {
        name: LazyTensor(shape, dtype, partial(other, place)) for place, (name, (shape, dtype)) in enumerate(rest)
    }


def _join(shape: tuple[int, ...], dtype: torch.dtype, blocks: Callable[[], Iterator[Tensor]]) -> Tensor:
    joined, end = torch.empty(shape, dtype=dtype), 0
    for block in blocks():
        start, end = end, end + (len(block) if shape else 1)
        joined.view(-1, *shape[1:])[start:end] = block
    return joined
