"""Samples -> gray through a table of levels, in pieces, and the range of samples that have no table.

NumPy turns an array of indices into 64 bits before it uses it: eight bytes a pixel, of which a piece has few.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from prelim.errors import UnreadableInput
from prelim.images.contrast import (
    HIGH_PERCENTILE,
    LOW_PERCENTILE,
    minmax_equalize,
    scale_between,
    weighted_percentiles,
)

PIECE = 2**18

# Of the samples in the upper half of the range; antialiased text has some on other levels.
MARKER_SHARE = 0.9


def pieces(size: int) -> Iterator[slice]:
    """Consecutive slices of at most PIECE that cover `size` items."""
    return (slice(start, start + PIECE) for start in range(0, size, PIECE))


def count_levels(codes: np.ndarray, levels: int) -> np.ndarray:
    """(levels,) int64, how often each of the codes 0 to levels - 1 occurs; codes of any shape, unsigned."""
    flat, counts = codes.reshape(-1), np.zeros(levels, dtype=np.int64)
    for piece in pieces(flat.size):
        counts += np.bincount(flat[piece], minlength=levels)
    return counts


def look_up(table: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The gray `table[codes]` as float32; table (levels,) float32, codes of any shape, unsigned."""
    flat, gray = codes.reshape(-1), np.empty(codes.size, dtype=np.float32)
    for piece in pieces(flat.size):
        gray[piece] = table[flat[piece]]
    return gray.reshape(codes.shape)


def luma(channels: np.ndarray) -> np.ndarray:
    """ITU-R 601-2 luma, (n,), of (n, 3 or more) samples; that of equal ones is the same, exactly."""
    red, green, blue = (channels[:, index] for index in range(3))
    if channels.dtype in (np.uint8, np.uint16):
        # As Pillow's convert("L"): the three weights add up to 2 ** 16.
        weighted: np.ndarray = red * np.uint32(19595) + green * np.uint32(38470) + blue * np.uint32(7471)
        return (weighted + np.uint32(0x8000)) >> np.uint32(16)
    values = red * 0.299 + green * 0.587 + blue * 0.114
    return values if channels.dtype.kind == "f" else np.rint(values)


def scale_samples(samples: np.ndarray, render: str, invert: bool) -> tuple[np.ndarray, bool]:
    """Samples scaled to [0, 1] as float32, and whether their own range and not that of their type decided.

    samples : any shape, (u)int8 to (u)int32 or float32. Of floats, NaN is black, infinity as white or black as can be

    Unsigned samples of up to 16 bits that use the upper half of their type are divided by its maximum. All others
    have no range that is known: percentiles 0.5 and 99.5 become 0 and 1. Which of the two depends neither on single
    pixels, nor on a marker or a border of one level.

    Raises UnreadableInput (400) if no sample is finite.
    """
    if samples.dtype.itemsize > 2:
        if render != "minmax_equalize":
            return scale_linearly(samples, *sample_percentiles(samples), invert), True
        # The recipe reduces to 256 levels anyway; what it inverts comes after that.
        finite = finite_samples(samples)
        samples = scale_linearly(samples, float(finite.min()), float(finite.max()), invert=False)
        samples = quantize(samples)
    codes = samples.view(f"u{samples.dtype.itemsize}")
    values = np.arange(2 ** (8 * samples.dtype.itemsize), dtype=codes.dtype).view(samples.dtype).astype(np.float64)
    counts = count_levels(codes, values.size)
    if render == "minmax_equalize":
        return look_up(minmax_equalize(values, counts, invert).astype(np.float32), codes), False
    low, high = weighted_percentiles(values, _without_marker(values, counts))
    full = samples.dtype.kind == "u" and high - low >= values[-1] / 2
    if full:
        low, high = 0.0, float(values[-1])
    table = scale_between(values, low, high)
    return look_up((1 - table if invert else table).astype(np.float32), codes), not full


def _without_marker(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Counts without a level that holds nearly all samples of the upper half, if others have a range.

    A picture of 12 bits in a file of 16 may have a burned-in marker of 65535. In one that uses the upper half, the
    samples there are spread over many levels.

    values, counts : (levels,)
    """
    upper = np.where(values >= values.max() / 2, counts, 0)
    marker = int(upper.argmax())
    if upper[marker] < MARKER_SHARE * upper.sum():
        return counts
    others = counts.copy()
    others[marker] = 0
    return others if np.count_nonzero(others) > 1 else counts


def _without_top(finite: np.ndarray) -> np.ndarray:
    """Samples without their highest level if that is a marker, as in `_without_marker`; samples (n,).

    Their type has no range that means anything, so the upper half is that of their own range.
    """
    low, top = float(finite.min()), float(finite.max())
    is_top = finite == finite.max()
    if is_top.sum() < MARKER_SHARE * np.count_nonzero(finite >= low / 2 + top / 2):
        return finite
    others = finite[~is_top]
    return others if others.size and others.min() < others.max() else finite


def finite_samples(samples: np.ndarray) -> np.ndarray:
    """A copy of all finite samples, (n,); UnreadableInput (400) if there are none."""
    flat = samples.reshape(-1)
    is_finite = np.isfinite(flat)
    if not is_finite.any():
        raise UnreadableInput("the image has no finite sample; allowed: numbers; check its export")
    # A copy takes a fifth of the time of a selection, and nearly every image is finite.
    return flat.copy() if is_finite.all() else flat[is_finite]


def sample_percentiles(samples: np.ndarray) -> tuple[float, float]:
    """Percentiles 0.5 and 99.5 of the finite samples, or their extremes if those are equal, in linear time.

    A marker of one level, beyond all that the picture has, does not count.
    """
    finite = _without_top(finite_samples(samples))
    # The first sample at or below which this share of all lies, as in `weighted_percentiles`.
    ranks = [max(0, int(np.ceil(share * finite.size)) - 1) for share in (LOW_PERCENTILE, HIGH_PERCENTILE)]
    finite.partition(ranks)
    low, high = (float(finite[rank]) for rank in ranks)
    return (low, high) if low < high else (float(finite.min()), float(finite.max()))


def scale_linearly(samples: np.ndarray, low: float, high: float, invert: bool) -> np.ndarray:
    """Samples with [low, high] mapped to [0, 1], clipped, as float32; NaN becomes 0."""
    flat, gray = samples.reshape(-1), np.empty(samples.size, dtype=np.float32)
    for piece in pieces(flat.size):
        scaled = scale_between(flat[piece].astype(np.float64), low, high)
        gray[piece] = np.nan_to_num(1 - scaled if invert else scaled, nan=0.0)
    return gray.reshape(samples.shape)


def quantize(gray: np.ndarray) -> np.ndarray:
    """Gray in [0, 1] as the nearest of 256 levels, uint8."""
    gray *= 255
    return np.rint(gray, out=gray).astype(np.uint8)
