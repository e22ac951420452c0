"""A figure of examples: image, reference and output side by side."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from prelim.images.radiograph import InputConfig
from training.datasets.pictures import read_picture
from training.evaluation.data import EvaluationData

_LINE = 74
"""Characters of a line of text."""


def plot_examples(path: Path, data: EvaluationData, reports: Sequence[str], count: int = 6) -> int:
    """Draw examples spread evenly over the studies whose image is on this disk, each once; returns how many."""
    images = {i: image for i, image in enumerate(data.inputs) if image and image.suffix != ".json" and image.is_file()}
    shown, count = list(images), min(count, len(images))
    chosen = [shown[round(k * (len(shown) - 1) / max(count - 1, 1))] for k in range(count)]
    path.unlink(missing_ok=True)  # those of another evaluation
    if not chosen:
        return 0
    texts = [
        [textwrap.wrap(text, _LINE)[:14] or ["(nothing)"] for text in (data.references[i], reports[i])] for i in chosen
    ]
    heights = [max(2.3, 0.2 * (sum(map(len, pair)) + 4.5)) for pair in texts]
    figure, axes = plt.subplots(
        len(chosen), 2, figsize=(9.5, sum(heights)), width_ratios=(1, 2), height_ratios=heights, squeeze=False
    )
    for (image, words), i, (reference, report) in zip(axes, chosen, texts, strict=True):
        image.imshow(read_picture(images[i], InputConfig(), data.frame).pixels, cmap="gray")
        image.set_axis_off()
        image.set_title(data.studies[i].study_id, fontsize=8, color="0.4")
        words.set_axis_off()
        words.text(0, 1, "reference", fontsize=8, color="0.4", va="top", transform=words.transAxes)
        down = 13.0  # points below the top
        for lines, color, size in (
            (reference, "black", 9),
            (["output, UNVERIFIED"], "tab:blue", 8),
            (report, "black", 9),
        ):
            words.annotate(
                "\n".join(lines),
                (0, 1),
                (0, -down),
                xycoords="axes fraction",
                textcoords="offset points",
                va="top",
                fontsize=size,
                color=color,
            )
            down += 13.2 * len(lines) + (8 if color == "black" else 0)
    figure.tight_layout(h_pad=1.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return len(chosen)
