"""Values that occur so often -> gray in [0, 1]: between percentiles, or by the recipe of MIMIC-CXR-JPG."""

from __future__ import annotations

import numpy as np

# Why percentiles: without a window, a few hot pixels and markers must not set the contrast.
LOW_PERCENTILE, HIGH_PERCENTILE = 0.005, 0.995


def weighted_percentiles(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Percentiles 0.5 and 99.5 of `values` that occur `counts` times, or their extremes if those are equal."""
    order = np.argsort(values, kind="stable")
    order = order[counts[order] > 0]
    share = np.cumsum(counts[order]) / counts.sum()
    low = float(values[order[np.searchsorted(share, LOW_PERCENTILE)]])
    high = float(values[order[np.searchsorted(share, HIGH_PERCENTILE)]])
    if low == high:
        low, high = float(values[order[0]]), float(values[order[-1]])
    return low, high


def scale_between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [low, high] to [0, 1], clipped; all 0 if the range is empty."""
    if not high > low:
        return np.zeros(values.shape)
    return np.clip((values - low) / (high - low), 0, 1)


def minmax_equalize(values: np.ndarray, counts: np.ndarray, invert: bool) -> np.ndarray:
    """The gray in [0, 1], in steps of 1/255, by the recipe of MIMIC-CXR-JPG: min-max, invert, equalize.

    values, counts : (n,), the values that can occur and how often they do
    """
    occurring = values[counts > 0]
    levels = np.rint(255 * scale_between(values, occurring.min(), occurring.max())).astype(np.intp)
    if invert:
        levels = 255 - levels
    histogram = np.bincount(levels, weights=counts, minlength=256)
    return equalizing_levels(histogram)[levels] / 255


def equalizing_levels(histogram: np.ndarray) -> np.ndarray:
    """The new level, (256,) uint8, of every level with this histogram, (256,), as cv2.equalizeHist does.

    The lowest level that occurs becomes 0, and the rest follow the cumulated histogram without it.
    """
    lowest = int(np.flatnonzero(histogram)[0])
    remaining = histogram.sum() - histogram[lowest]
    if remaining == 0:
        # One level only: OpenCV leaves the image as it is.
        return np.full(256, lowest, dtype=np.uint8)
    cumulated = np.cumsum(histogram) - histogram[lowest]
    scale = np.float32(255) / np.float32(remaining)
    levels = np.rint(np.maximum(cumulated, 0).astype(np.float32) * scale)
    levels[: lowest + 1] = 0
    return np.clip(levels, 0, 255).astype(np.uint8)
