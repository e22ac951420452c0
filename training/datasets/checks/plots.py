"""The plots of the page, as PNG."""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from prelim.errors import InputError
from prelim.images.radiograph import InputConfig
from training.datasets.checks.image_facts import ImageFacts
from training.datasets.pictures import read_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"train": "#2f6f9f", "val": "#d98a1f", "test": "#5b9a5b", "": "#2f6f9f"}
TEXT = "#333a40"

THUMBNAIL = 220
"""Pixels of the longer side."""


def _new(height: float = 2.5) -> "tuple[Figure, Axes]":
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(4.2, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9, colors=TEXT)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=TEXT, fontsize=9)
    return figure, axes


def _png(figure: "Figure") -> str:
    from matplotlib import pyplot

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=200)
    pyplot.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def plot_lengths(lengths: Mapping[str, Sequence[int]], unit: str, limit: int | None = None) -> str:
    """Histograms of report lengths by split, each with area one; `limit` is where reports are cut."""
    figure, axes = _new()
    longest = max((max(values) for values in lengths.values() if len(values)), default=1)
    everything = np.concatenate([np.asarray(values) for values in lengths.values()])
    # A few very long reports would press all others into one bar.
    top = max(min(longest, 2 * int(np.percentile(everything, 99))), limit or 1)
    step = max(1, top // (40 if len(everything) > 2000 else 15))
    bins = np.arange(0.5, top + step + 0.5, step).tolist()
    for split, values in lengths.items():
        if len(values):
            name = f"{split} ({len(values):,})" if split else None
            color = COLORS.get(split)
            if len(lengths) == 1:
                axes.hist(np.minimum(values, top), bins=bins, density=True, color=color, alpha=0.3)
            axes.hist(np.minimum(values, top), bins=bins, density=True, histtype="step", color=color, label=name)
    if limit is not None:
        axes.axvline(limit, color="#b3261e", linewidth=1.2, label=f"cut at {limit}")
    axes.set(xlabel=f"{unit} in a report" + (f" (the longest of {longest:,} at {top:,})" if longest > top else ""))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9, frameon=False)
    return _png(figure)


def plot_repeats(counts: Sequence[int]) -> str:
    """How many reports the most repeated texts make up, cumulated.

    counts : of every distinct report, the largest first
    """
    figure, axes = _new()
    share = np.cumsum(counts) / max(1, sum(counts))
    axes.plot(np.arange(1, len(share) + 1), share, color=COLORS["train"])
    axes.fill_between(np.arange(1, len(share) + 1), share, color=COLORS["train"], alpha=0.15)
    axes.set(xscale="log", ylim=(0, 1.02), xlabel="distinct reports, the most repeated first", ylabel="share of all")
    return _png(figure)


def plot_balance(table: Mapping[str, Mapping[str, int]], most: int = 14) -> str:
    """Counts by value as bars, one color a split; beyond `most` values the rest is one bar."""
    values = list(table)[:most]
    rows = {value: dict(table[value]) for value in values}
    if len(table) > most:
        rest: dict[str, int] = {}
        for value in list(table)[most:]:
            for split, count in table[value].items():
                rest[split] = rest.get(split, 0) + count
        rows[f"{len(table) - most} others"] = rest
    figure, axes = _new(0.6 + 0.22 * len(rows))
    names = [value if len(value) <= 28 else f"{value[:27]}…" for value in rows]
    left = np.zeros(len(rows))
    for split in dict.fromkeys(split for counts in rows.values() for split in counts):
        widths = np.array([counts.get(split, 0) for counts in rows.values()])
        axes.barh(range(len(rows)), widths, left=left, color=COLORS.get(split, COLORS[""]), height=0.72, label=split)
        left += widths
    for row, total in enumerate(left):
        axes.text(total, row, f" {int(total):,}", va="center", fontsize=9, color=TEXT)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.margins(x=0.2)
    axes.legend(fontsize=9, frameon=False, loc="lower right")
    return _png(figure)


def plot_gray(facts: Sequence[ImageFacts]) -> str:
    """Every intact image by its mean gray and its contrast."""
    figure, axes = _new()
    points = [(fact.mean, fact.std) for fact in facts if fact.mean is not None and fact.std is not None]
    size = 26 if len(points) < 200 else 5
    means, contrasts = zip(*points, strict=True)
    axes.scatter(means, contrasts, s=size, alpha=0.4, color=COLORS["train"], linewidths=0)
    axes.set(
        xlabel="mean gray of an image (0 black, 1 white)", ylabel="standard deviation", xlim=(0, 1), ylim=(0, None)
    )
    return _png(figure)


def plot_histogram(histogram: Sequence[float]) -> str:
    """The mean histogram of gray levels."""
    figure, axes = _new()
    edges = np.linspace(0, 1, len(histogram) + 1)
    axes.stairs(histogram, edges, fill=True, color=COLORS["train"], alpha=0.6)
    axes.set(xlabel="gray level (0 black, 1 white)", ylabel="share of the pixels", xlim=(0, 1))
    return _png(figure)


def plot_sizes(facts: Sequence[ImageFacts]) -> str:
    """Rows against columns of every intact image; the size of a dot is the number of images."""
    figure, axes = _new()
    sizes: dict[tuple[int, int], int] = {}
    for fact in facts:
        if fact.size:
            sizes[fact.size] = sizes.get(fact.size, 0) + 1
    rows, columns = zip(*sizes, strict=True) if sizes else ((), ())
    top = 1.08 * max((*rows, *columns), default=1)
    area = 14 + 600 * np.array(list(sizes.values())) / max(1, sum(sizes.values()))
    axes.scatter(columns, rows, s=area, alpha=0.45, color=COLORS["train"], linewidths=0)
    axes.set(xlabel="columns (pixels)", ylabel="rows (pixels)", xlim=(0, top), ylim=(0, top))
    axes.set_aspect("equal")
    return _png(figure)


def thumbnail(path: Path, frame: int = 0) -> str:
    """The image, or that frame of it, as a small JPEG; empty where it cannot be read."""
    try:
        pixels = read_picture(path, InputConfig(), frame).pixels
    except (InputError, OSError):
        return ""
    image = Image.fromarray((pixels * 255).round().astype(np.uint8))
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


def all_plots(
    result: Mapping[str, Any], facts: Sequence[ImageFacts], lengths: Mapping[str, Sequence[int]], repeats: Sequence[int]
) -> dict[str, list[tuple[str, str]]]:
    """Title and PNG of every plot that has something to show, by the part of the page.

    lengths : words of every report, by split
    repeats : of every distinct report how often it occurs, the largest first
    """
    plots: dict[str, list[tuple[str, str]]] = {"texts": [], "balance": [], "images": []}
    if repeats:
        plots["texts"].append(("Words of a report", plot_lengths(lengths, "words")))
        plots["texts"].append(("Repetition", plot_repeats(repeats)))
    tokens = result["texts"].get("tokens")
    if tokens and tokens["lengths"]:
        title = "Tokens of a report"
        plots["texts"].append((title, plot_lengths({"": tokens["lengths"]}, "tokens", tokens["max_tokens"])))
    for name, table in result["balance"].items():
        if len(table) > 1:
            plots["balance"].append((name.replace("_", " ").capitalize(), plot_balance(table)))
    if result["images"]["intact"]:
        plots["images"].append(("Brightness and contrast", plot_gray(facts)))
        plots["images"].append(("Gray levels, all images", plot_histogram(result["images"]["histogram"])))
        plots["images"].append(("Sizes", plot_sizes(facts)))
    return plots
